"""What the factors and weights are worth on held-out text."""


rule evaluate_perplexity:
    """Perplexity of test documents with one method's factors, at each of its lengths."""
    input:
        model="results/{model}/{weights}/model",
        tokens=test_tokens,
        factors=method_factors,
    output:
        "results/{model}/{weights}/evaluation/{evaluation}/{method}.json",
    log:
        "logs/{model}/{weights}/evaluation/{evaluation}-{method}.log",
    wildcard_constraints:
        evaluation=named("perplexity"),
    conda:
        ENVIRONMENT
    resources:
        **ONE_PROCESS,
    params:
        settings=perplexity_settings,
        state="results/state/{model}/{weights}/{evaluation}/{method}",
        version=VERSIONS["evaluate-perplexity"],
    message:
        "Perplexity of {wildcards.evaluation}: {wildcards.model}/{wildcards.weights}, {wildcards.method}"
    shell:
        "exec longrope --log {log:q} --processes {resources.processes} --nodes {resources.nodes}"
        " --per-sequence {resources.per_sequence} evaluate-perplexity --model {input.model:q}"
        " --tokens {input.tokens:q} --factors {input.factors:q} --out {output:q}"
        " --state {params.state:q} --settings {params.settings:q}"


rule evaluate_passkey:
    """Passkey retrieval with one method's factors, at each of its lengths."""
    input:
        model="results/{model}/{weights}/model",
        factors=method_factors,
    output:
        "results/{model}/{weights}/evaluation/{evaluation}/{method}.json",
    log:
        "logs/{model}/{weights}/evaluation/{evaluation}-{method}.log",
    wildcard_constraints:
        evaluation=named("passkey"),
    priority: 5
    conda:
        ENVIRONMENT
    resources:
        **ONE_PROCESS,
    params:
        settings=passkey_settings,
        state="results/state/{model}/{weights}/{evaluation}/{method}",
        version=VERSIONS["evaluate-passkey"],
    message:
        "Passkeys: {wildcards.model}/{wildcards.weights}, {wildcards.method}"
    shell:
        "exec longrope --log {log:q} --processes {resources.processes} --nodes {resources.nodes}"
        " --per-sequence {resources.per_sequence} evaluate-passkey --model {input.model:q}"
        " --factors {input.factors:q} --out {output:q} --state {params.state:q}"
        " --settings {params.settings:q}"


rule evaluate_benchmarks:
    """Questions of lm-evaluation-harness with one method's factors."""
    input:
        model="results/{model}/{weights}/model",
        factors=method_factors,
        questions=question_files,
    output:
        "results/{model}/{weights}/evaluation/{evaluation}/{method}.json",
    log:
        "logs/{model}/{weights}/evaluation/{evaluation}-{method}.log",
    wildcard_constraints:
        evaluation=named("benchmarks"),
    conda:
        ENVIRONMENT
    params:
        settings=benchmarks_settings,
        state="results/state/{model}/{weights}/{evaluation}/{method}",
        version=VERSIONS["evaluate-benchmarks"],
    message:
        "Benchmarks: {wildcards.model}/{wildcards.weights}, {wildcards.method}"
    shell:
        "exec longrope --log {log:q} evaluate-benchmarks --model {input.model:q}"
        " --factors {input.factors:q} --out {output:q} --state {params.state:q}"
        " --settings {params.settings:q}"


rule evaluate_ruler:
    """Retrieval of RULER's needles with one method's factors, at each of its lengths."""
    input:
        model="results/{model}/{weights}/model",
        factors=method_factors,
        haystack=haystack_files,
    output:
        "results/{model}/{weights}/evaluation/{evaluation}/{method}.json",
    log:
        "logs/{model}/{weights}/evaluation/{evaluation}-{method}.log",
    wildcard_constraints:
        evaluation=named("ruler"),
    conda:
        ENVIRONMENT
    params:
        settings=ruler_settings,
        state="results/state/{model}/{weights}/{evaluation}/{method}",
        samples="results/state/{model}/ruler",
        version=VERSIONS["evaluate-ruler"],
    message:
        "RULER: {wildcards.model}/{wildcards.weights}, {wildcards.method}"
    shell:
        "exec longrope --log {log:q} evaluate-ruler --model {input.model:q}"
        " --factors {input.factors:q} --out {output:q} --state {params.state:q}"
        " --samples {params.samples:q} --settings {params.settings:q}"


rule evaluation:
    """All evaluations but the benchmarks, which need another package (`study` has them)."""
    input:
        targets.evaluation_files(STUDY, "perplexity"),
        targets.evaluation_files(STUDY, "passkey"),
    localrule: True
