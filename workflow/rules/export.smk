"""The extended model in forms that other tools load as they are."""


rule export_model:
    """Write one form of an extended model, read it again and compare."""
    input:
        model="results/{model}/{weights}/model",
        factors="results/{model}/{weights}/extended/extended.json",
        records=export_records,
        trainings=export_trainings,
    output:
        directory("results/{model}/{weights}/extended/{form}"),
    log:
        "logs/{model}/{weights}/export-{form}.log",
    wildcard_constraints:
        form="|".join(FORMS),
    conda:
        ENVIRONMENT
    params:
        flags=export_flags,
        version=VERSIONS["export"],
    message:
        "Exporting {wildcards.model}, {wildcards.weights}, as {wildcards.form}"
    shell:
        "exec longrope --log {log:q} export --form {wildcards.form} {params.flags:q} --model {input.model:q}"
        " --factors {input.factors:q} --records {input.records:q}"
        " --trainings {input.trainings:q} --out {output:q}"


rule export:
    """The extended models for transformers, vLLM and SGLang: with one table, and with all tiers."""
    input:
        targets.export_files(STUDY),
    localrule: True
