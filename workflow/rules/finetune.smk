"""Fine-tuning with the factors of one window; a tuning may start from another one."""


rule finetune_model:
    """Fine-tune a checkpoint at one window."""
    input:
        model=start_model,
        factors=tuning_factors,
        tokens=tokens_of("train"),
    output:
        model=directory("results/{model}/{weights}/model"),
        metrics="results/{model}/{weights}/training/metrics.jsonl",
    log:
        "logs/{model}/{weights}/finetune.log",
    wildcard_constraints:
        weights=either(TUNED),
    priority: 10  # the longest chain of the study goes first
    conda:
        ENVIRONMENT
    resources:
        **ONE_PROCESS,
    params:
        settings=tuning_settings,
        state="results/state/{model}/{weights}/finetune",
        version=VERSIONS["finetune"],
    message:
        "Fine-tuning {wildcards.model} as {wildcards.weights}"
    shell:
        "exec longrope --log {log:q} --processes {resources.processes} --nodes {resources.nodes}"
        " --per-sequence {resources.per_sequence} finetune --model {input.model:q}"
        " --factors {input.factors:q} --tokens {input.tokens:q} --out {output.model:q}"
        " --metrics {output.metrics:q} --state {params.state:q} --settings {params.settings:q}"


rule finetune:
    """All fine-tunings."""
    input:
        [
            f"results/{model}/{weights}/model"
            for model, settings in STUDY.models.items()
            for weights in settings.tunings
        ],
    localrule: True
