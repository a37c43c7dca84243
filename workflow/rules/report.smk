"""Tables and figures, from records alone."""


rule make_table:
    """One of the paper's tables for this configuration, or one of our own."""
    input:
        records=records_of,
        traces=traces_of,
        trainings=trainings_of,
        paper=PAPER,
    output:
        multiext("results/tables/{table}", ".csv", ".md", ".tex"),
        report(
            "results/tables/{table}.html",
            caption="../report/table.rst",
            category=report_part,
            labels=report_labels,
        ),
    log:
        "logs/{table}.log",
    wildcard_constraints:
        table="|".join(each for each in (*MAIN, *ABLATIONS) if each not in (*FIGURES, "summary")),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY),
        stem=subpath(output[0], strip_suffix=".csv"),
        version=VERSIONS["tabulate"],
    message:
        "Making {wildcards.table}"
    shell:
        "exec longrope --log {log:q} tabulate {wildcards.table} --records {input.records:q}"
        " --traces {input.traces:q} --trainings {input.trainings:q} --paper {input.paper:q}"
        " --out {params.stem:q} --settings {params.settings:q}"


rule make_summary:
    """The claims of the method that the study bears out, and those that it does not."""
    input:
        targets.evaluation_files(STUDY, shown_in="summary"),
    output:
        summary="results/tables/summary.json",
        claims="results/tables/summary.md",
        page=report(
            "results/tables/summary.html",
            caption="../report/summary.rst",
            category=report_part,
            labels=report_labels,
        ),
    log:
        "logs/summary.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY),
        version=VERSIONS["tabulate"],
    message:
        "Comparing what the method claims"
    shell:
        "exec longrope --log {log:q} summarise --records {input:q} --out {output.summary:q}"
        " --settings {params.settings:q}"


rule plot_figure:
    """One figure of the paper for this configuration, with the numbers that it draws."""
    input:
        figure_records,
    output:
        png="results/figures/{figure}.png",
        page=report(
            "results/figures/{figure}.html",
            caption="../report/figure.rst",
            category=report_part,
            labels=report_labels,
        ),
        pdf="results/figures/{figure}.pdf",
        csv="results/figures/{figure}.csv",
    log:
        "logs/{figure}.log",
    wildcard_constraints:
        figure="|".join(FIGURES),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY),
        stem=subpath(output.png, strip_suffix=".png"),
        version=VERSIONS["plot"],
    message:
        "Drawing {wildcards.figure}"
    shell:
        "exec longrope --log {log:q} plot {wildcards.figure:q} --records {input:q}"
        " --out {params.stem:q} --settings {params.settings:q}"


rule tables:
    """The tables of the chain from the first search to the extended model."""
    input:
        tables_among(MAIN),
    localrule: True


rule figures:
    """The figures of the same."""
    input:
        figures_among(MAIN),
    localrule: True
