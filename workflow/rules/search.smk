"""Factors: from closed forms, searched, and recovered for short windows."""


rule derive_factors:
    """Factors of one window from a closed form."""
    input:
        model="results/{model}/{weights}/model",
    output:
        "results/{model}/{weights}/factors/{form}/{window}/factors.json",
    log:
        "logs/{model}/{weights}/factors/{form}-{window}.log",
    localrule: True  # a formula, in less than a second; a study has dozens
    conda:
        ENVIRONMENT
    params:
        version=VERSIONS["derive"],
    message:
        "Deriving {wildcards.form} factors of {wildcards.model} for {wildcards.window}"
    shell:
        "exec longrope --log {log:q} derive {wildcards.form:q} --window {wildcards.window:q}"
        " --model {input.model:q} --out {output:q}"


rule search_factors:
    """Search factors for one window: from nothing, on top of tuned ones, or for a short window."""
    input:
        model="results/{model}/{weights}/model",
        tokens=tokens_of("validation"),
        warm=warm_factors,
    output:
        factors="results/{model}/{weights}/factors/{search}/{window}/factors.json",
        trace="results/{model}/{weights}/factors/{search}/{window}/trace.jsonl",
        plot="results/{model}/{weights}/factors/{search}/{window}/search.png",
    log:
        "logs/{model}/{weights}/factors/{search}-{window}.log",
    priority: 10  # the longest chain of the study goes first
    conda:
        ENVIRONMENT
    resources:
        **ONE_PROCESS,
    params:
        settings=search_settings,
        recovery=recovery_flag,
        state="results/state/{model}/{weights}/{search}/{window}",
        version=VERSIONS["search"],
    message:
        "Searching factors: {wildcards.model}/{wildcards.weights}, {wildcards.search} at {wildcards.window}"
    shell:
        "exec longrope --log {log:q} --processes {resources.processes} --nodes {resources.nodes}"
        " --per-sequence {resources.per_sequence} search {params.recovery} --model {input.model:q}"
        " --tokens {input.tokens:q} --warm {input.warm:q} --out {output.factors:q}"
        " --trace {output.trace:q} --plot {output.plot:q} --state {params.state:q}"
        " --settings {params.settings:q}"


rule search:
    """All searches, on the pre-trained and on the tuned weights."""
    input:
        targets.search_files(STUDY),
    localrule: True


rule recovery:
    """The factors of the short windows."""
    input:
        targets.recovery_files(STUDY),
    localrule: True
