"""Text as tokens, split into train, validation and test."""


rule tokenize_corpus:
    """Split a corpus by document and tokenise it for one model."""
    input:
        files=corpus_files,
        model="results/{model}/base/model",
    output:
        train=directory("results/{model}/data/{corpus}/train"),
        validation=directory("results/{model}/data/{corpus}/validation"),
        test=directory("results/{model}/data/{corpus}/test"),
    log:
        "logs/{model}/data/{corpus}.log",
    priority: 20  # what is wrong with a corpus shows before any long work
    conda:
        ENVIRONMENT
    params:
        settings=corpus_settings,
        folder=subpath(output.train, parent=True),
        version=VERSIONS["tokenize"],
    message:
        "Tokenising {wildcards.corpus} for {wildcards.model}"
    shell:
        "exec longrope --log {log:q} tokenize --model {input.model:q} --out {params.folder:q}"
        " --settings {params.settings:q}"
