"""Tables and figures, from records alone."""


rule make_tables:
    """The paper's tables for this configuration, and the claims that they bear out or do not."""
    input:
        perplexity=study.evaluation_files(STUDY, "perplexity"),
        passkey=study.evaluation_files(STUDY, "passkey"),
        traces=study.trace_files(STUDY),
        paper="resources/paper/tables.csv",
    output:
        expand(
            "results/tables/{table}.{kind}",
            table=["table06", "table09", "table10", "passkey", "searches", "fitness"],
            kind=["csv", "md", "tex"],
        ),
        report(
            expand(
                "results/tables/{table}.html",
                table=["table06", "table09", "table10", "passkey", "searches", "fitness"],
            ),
            caption="../report/tables.rst",
            category="Tables",
        ),
        summary="results/tables/summary.json",
        claims="results/tables/summary.md",
        page=report(
            "results/tables/summary.html", caption="../report/summary.rst", category="Tables"
        ),
    log:
        "logs/tables.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY),
        folder=subpath(output.summary, parent=True),
        version=VERSIONS["tabulate"],
    message:
        "Making the tables"
    shell:
        "exec longrope --log {log:q} tabulate --perplexity {input.perplexity:q}"
        " --passkey {input.passkey:q} --traces {input.traces:q} --paper {input.paper:q}"
        " --out {params.folder:q} --settings {params.settings:q}"


rule plot_figure:
    """One figure of the paper for this configuration, with the numbers that it draws."""
    input:
        figure_records,
    output:
        png=report(
            "results/figures/{figure}.png", caption="../report/figure.rst", category="Figures"
        ),
        pdf="results/figures/{figure}.pdf",
        csv="results/figures/{figure}.csv",
    log:
        "logs/{figure}.log",
    wildcard_constraints:
        figure="figure[1456]",
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
    """All tables."""
    input:
        rules.make_tables.output,
    localrule: True


rule figures:
    """All figures."""
    input:
        expand("results/figures/{figure}.png", figure=["figure1", "figure4", "figure5", "figure6"]),
    localrule: True
