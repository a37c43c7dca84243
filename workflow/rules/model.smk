"""The pre-trained model: brought in from where it is, or trained here from nothing."""


rule import_model:
    """Bring a checkpoint in from a folder, the hub or a GGUF file."""
    input:
        model_files,
    output:
        directory("results/{model}/base/model"),
    log:
        "logs/{model}/base/import-model.log",
    wildcard_constraints:
        model=either(IMPORTED),
    priority: 20  # what is wrong with a checkpoint shows before any long work
    conda:
        ENVIRONMENT
    params:
        settings=import_settings,
        version=VERSIONS["import-model"],
    message:
        "Importing {wildcards.model}"
    shell:
        "exec longrope --log {log:q} import-model --name {wildcards.model:q} --out {output:q}"
        " --settings {params.settings:q}"


rule pretrain_model:
    """Train a small model and its tokenizer from nothing."""
    input:
        model_corpus_files,
    output:
        directory("results/{model}/base/model"),
    log:
        "logs/{model}/base/pretrain.log",
    wildcard_constraints:
        model=either(PRETRAINED),
    conda:
        ENVIRONMENT
    params:
        settings=pretrain_settings,
        state="results/state/{model}/base/pretrain",
        version=VERSIONS["pretrain"],
    message:
        "Pre-training {wildcards.model}"
    shell:
        "exec longrope --log {log:q} pretrain --name {wildcards.model:q} --out {output:q}"
        " --state {params.state:q} --settings {params.settings:q}"


rule write_card:
    """Describe a model that was trained here: data, cost, what it can do."""
    input:
        model="results/{model}/base/model",
        tokens=tokens_of("train"),
        records=untouched_records,
    output:
        "results/{model}/base/card.md",
    log:
        "logs/{model}/base/card.log",
    wildcard_constraints:
        model=either(PRETRAINED),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        version=VERSIONS["card"],
    message:
        "Writing the card of {wildcards.model}"
    shell:
        "exec longrope --log {log:q} card --model {input.model:q} --tokens {input.tokens:q}"
        " --records {input.records:q} --out {output:q}"


rule pretrain:
    """The models that are trained here, each with its card."""
    input:
        expand("results/{model}/base/card.md", model=PRETRAINED),
    localrule: True
