"""The extended model: tuned weights and a table of factors by length."""


rule assemble_extended:
    """Put recovered, tuned and searched factors together."""
    input:
        model="results/{model}/{weights}/model",
        factors=tier_factors,
    output:
        "results/{model}/{weights}/extended/extended.json",
    log:
        "logs/{model}/{weights}/extended.log",
    localrule: True  # copies a few small files
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output[0], parent=True),
        version=VERSIONS["assemble"],
    message:
        "Assembling the extended model of {wildcards.model}, {wildcards.weights}"
    shell:
        "exec longrope --log {log:q} assemble --model {input.model:q}"
        " --factors {input.factors:q} --out {params.folder:q}"


rule extended:
    """The extended models."""
    input:
        targets.extended_files(STUDY),
    localrule: True
