"""
LongRoPE from a pre-trained model to tables and figures. The rules are in workflow/rules, one file
a stage; the method is the package in workflow/longrope; docs/configuration.md explains every key.

    snakemake --cores all                                       the default study
    snakemake --cores all study                                 with the ablations of the paper
    snakemake --cores all search                                one part of it
    snakemake --cores all export                                the extended model for other tools
    snakemake --cores 1 plan                                    what it will cost
    snakemake --cores all --configfile config/OTHER.yaml        another one
"""

import sys

from snakemake.utils import min_version

min_version("9.20")

# Another --configfile replaces the default one; Snakemake alone would merge the two.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/extend.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plan.smk"


rule all:
    """Everything: factors, weights, the extended model, tables and figures."""
    default_target: True
    input:
        rules.extended.input,
        rules.tables.input,
        rules.figures.input,
    localrule: True


rule study:
    """All of that, and the tables and figures that need more searches and tunings."""
    input:
        rules.all.input,
        tables_among(ABLATIONS),
        figures_among(ABLATIONS),
    localrule: True


onsuccess:
    print("Recording in MLflow ...", file=sys.stderr)
    shell("longrope sync --seconds 120 || true")
    print("Done: begin with results/tables/summary.md", file=sys.stderr)


onerror:
    print("Recording in MLflow ...", file=sys.stderr)
    shell("longrope sync --seconds 120 || true")
    print(STOPPED.closing(), file=sys.stderr)
