"""What the factors and weights are worth on held-out text."""


rule evaluate_perplexity:
    """Perplexity of test documents with one method's factors, at each of its lengths."""
    input:
        model="results/{model}/{weights}/model",
        tokens=tokens_of("test"),
        factors=perplexity_factors,
    output:
        "results/{model}/{weights}/evaluation/perplexity/{method}.json",
    log:
        "logs/{model}/{weights}/evaluation/perplexity-{method}.log",
    conda:
        ENVIRONMENT
    params:
        settings=perplexity_settings,
        state="results/state/{model}/{weights}/perplexity/{method}",
        version=VERSIONS["evaluate-perplexity"],
    message:
        "Perplexity of {wildcards.model}, {wildcards.weights}, with {wildcards.method}"
    shell:
        "exec longrope --log {log:q} evaluate-perplexity --model {input.model:q}"
        " --tokens {input.tokens:q} --factors {input.factors:q} --out {output:q}"
        " --state {params.state:q} --settings {params.settings:q}"


rule evaluate_passkey:
    """Passkey retrieval with one method's factors, at each of its lengths."""
    input:
        model="results/{model}/{weights}/model",
        factors=passkey_factors,
    output:
        "results/{model}/{weights}/evaluation/passkey/{method}.json",
    log:
        "logs/{model}/{weights}/evaluation/passkey-{method}.log",
    priority: 5
    conda:
        ENVIRONMENT
    params:
        settings=passkey_settings,
        state="results/state/{model}/{weights}/passkey/{method}",
        version=VERSIONS["evaluate-passkey"],
    message:
        "Passkeys of {wildcards.model}, {wildcards.weights}, with {wildcards.method}"
    shell:
        "exec longrope --log {log:q} evaluate-passkey --model {input.model:q}"
        " --factors {input.factors:q} --out {output:q} --state {params.state:q}"
        " --settings {params.settings:q}"


rule evaluation:
    """All evaluations."""
    input:
        study.evaluation_files(STUDY, "perplexity"),
        study.evaluation_files(STUDY, "passkey"),
    localrule: True
