"""
What all rules share: the checked configuration, wildcards, and, stage by stage, the functions that
give a rule its inputs and its settings as one JSON string. What a configuration means is decided
in workflow/longrope/study.py and checked in checks.py; here it only meets wildcards.
"""

import atexit
import os
import re

from longrope.baselines import CLOSED_FORMS, DETAILS
from longrope.checks import load_config
from longrope.config import ImportStage, PretrainStage
from longrope.config.base import NAME
from longrope.config.corpus import TokenizeSettings
from longrope.config.evaluation import (
    ABLATIONS,
    MAIN,
    BenchmarksStage,
    PasskeyStage,
    PerplexityStage,
    RulerStage,
)
from longrope.config.training import TuningStage
from longrope.errors import UserError
from longrope.export import FORMS
from longrope.interrupts import Stopped
from longrope.models.window import check_folders
from longrope.needs import needs
from longrope.plan.report import check_study
from longrope.report import contents
from longrope.report.contents import CONTENTS
from longrope.study import ON_TUNED
from longrope.versions import VERSIONS
from longrope.windows import PATTERN, parse_window, window_label
from longrope import inputs, study, targets
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

# What it runs on is no part of a study: `--config gpu=...`, or `config:` in a profile.
STATED = {key: config.pop(key) for key in ("gpu", "gpus", "gpu_memory") if key in config}

try:
    STUDY = load_config(config)
    check_folders(STUDY)
    if STATED and "gpu" not in STATED:
        raise UserError(f"--config {', '.join(STATED)}: say which kind, gpu=NAME, too")
    if "gpu" in STATED:
        check_study(STUDY, STATED["gpu"], STATED.get("gpus", 1), STATED.get("gpu_memory"))
except UserError as error:
    raise WorkflowError(str(error))

# Whether it was the user who ended the workflow: the Snakefile says so at its end.
STOPPED = Stopped()
logger.addFilter(STOPPED)

if workflow.is_main_process:
    for line in inputs.absent(STUDY):
        print(f"Warning: {line}", file=sys.stderr)
        # The list of jobs scrolls it off the screen: once more at the end.
        atexit.register(print, f"Warning: {line}", file=sys.stderr)


wildcard_constraints:
    model=NAME,
    weights=NAME,
    corpus=NAME,
    window=PATTERN,
    search=f"search(-{NAME})?|recovery",
    form=f"({'|'.join(CLOSED_FORMS)})({ON_TUNED}|{DETAILS})",
    evaluation=NAME,
    method=NAME,


FIGURES = targets.FIGURES


# Part of the project, wherever the results are (`--directory`).
PAPER = os.path.relpath(os.path.join(workflow.basedir, "resources/paper/tables.csv"))


# The environment for --sdm conda; without that flag the one that runs snakemake is used.
ENVIRONMENT = "../../envs/longrope.yaml"


# Of rules that can spread over several; a profile sets more (`set-resources`).
ONE_PROCESS = {"processes": 1, "nodes": 1, "per_sequence": 1}


def as_json(settings):
    """A stage's settings as one JSON string."""
    return settings.model_dump_json()


def model_settings(wildcards):
    """The configuration of the model that a path names."""
    if wildcards.model not in STUDY.models:
        known = ", ".join(STUDY.models)
        raise WorkflowError(f"the configuration has no model {wildcards.model!r}, but {known}")
    return STUDY.models[wildcards.model]


def tokens_of(split):
    """An input function: one split of the corpus that a model uses."""

    def tokens(wildcards):
        corpus = study.corpus_of(model_settings(wildcards), split, wildcards.get("weights"))
        return f"results/{wildcards.model}/data/{corpus}/{split}"

    return tokens


# --- models ------------------------------------------------------------------------------------


IMPORTED = [name for name, each in STUDY.models.items() if each.source.kind != "pretrain"]


PRETRAINED = [name for name, each in STUDY.models.items() if each.source.kind == "pretrain"]


def either(names):
    """A wildcard constraint for some names; with none, it matches nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def model_files(wildcards):
    return inputs.source_files(model_settings(wildcards).source)


def import_settings(wildcards):
    settings = model_settings(wildcards)
    return as_json(
        ImportStage(
            source=settings.source,
            original_window=settings.original_window,
            rope=settings.rope,
        )
    )


def pretrain_settings(wildcards):
    settings = model_settings(wildcards)
    return as_json(
        PretrainStage(
            model=settings.source,
            corpus=STUDY.corpora[study.corpus_of(settings, "train")],
            original_window=settings.original_window,
            seed=STUDY.seed,
        )
    )


def machine_flags():
    """The options of `longrope plan` for the GPU that is stated; one core of this machine if none
    is."""
    flags = {"--gpu": STATED.get("gpu", "cpu"), "--gpus": STATED.get("gpus", 1)}
    if "gpu_memory" in STATED:
        flags["--memory"] = STATED["gpu_memory"]
    return [str(part) for pair in flags.items() for part in pair]


def untouched_records(wildcards):
    """The evaluations of a model as it was pre-trained."""
    return targets.untouched_files(STUDY, wildcards.model)


# --- corpora -----------------------------------------------------------------------------------


def corpus_files(wildcards):
    return inputs.source_files(STUDY.corpora[wildcards.corpus].source)


def model_corpus_files(wildcards):
    return inputs.source_files(
        STUDY.corpora[study.corpus_of(model_settings(wildcards), "train")].source
    )


def corpus_settings(wildcards):
    return as_json(
        TokenizeSettings(
            corpus=STUDY.corpora[wildcards.corpus],
            needs=needs(STUDY, wildcards.model, wildcards.corpus),
        )
    )


# --- searches ----------------------------------------------------------------------------------


def search_settings(wildcards):
    window = parse_window(wildcards.window)
    try:
        return as_json(
            study.search_settings(
                STUDY, wildcards.model, wildcards.weights, wildcards.search, window
            )
        )
    except UserError as error:
        raise WorkflowError(str(error))


def recovery_flag(wildcards):
    return "--recovery" if wildcards.search == "recovery" else ""


def warm_factors(wildcards):
    """The factors that a search starts from, if a shorter window is searched before it."""
    model_settings(wildcards)
    window = parse_window(wildcards.window)
    place = wildcards.model, wildcards.weights, wildcards.search
    try:
        before = study.warm_window(STUDY, *place, window)
    except UserError as error:
        raise WorkflowError(str(error))
    return [] if before is None else study.factors_path(*place, before)


# --- fine-tunings ------------------------------------------------------------------------------


TUNED = sorted({name for each in STUDY.models.values() for name in each.tunings})


def tuning_settings(wildcards):
    tuning = model_settings(wildcards).tunings[wildcards.weights]
    return as_json(TuningStage(name=wildcards.weights, tuning=tuning, seed=STUDY.seed))


def start_model(wildcards):
    tuning = model_settings(wildcards).tunings[wildcards.weights]
    return f"results/{wildcards.model}/{tuning.start}/model"


def tuning_factors(wildcards):
    return study.tuned_path(wildcards.model, model_settings(wildcards), wildcards.weights)


# --- extended models ---------------------------------------------------------------------------


def tier_factors(wildcards):
    return study.tiers(wildcards.model, model_settings(wildcards))


def export_records(wildcards):
    """What was measured of the extended model, for its card."""
    return targets.export_records(STUDY, wildcards.model, wildcards.weights)


def export_flags(wildcards):
    """What the configuration says of an export, as options."""
    return model_settings(wildcards).export.flags(wildcards.form)


def export_trainings(wildcards):
    chain = study.chain_of(model_settings(wildcards), wildcards.weights)
    return [f"results/{wildcards.model}/{each}/training/metrics.jsonl" for each in chain]


# --- evaluations -------------------------------------------------------------------------------


def named(task):
    """A wildcard constraint: the evaluations of one task."""
    return either({name for _, name, _ in targets.evaluations(STUDY, task)})


def evaluation_settings(wildcards):
    """What the configuration says of the evaluation that a path names."""
    known = model_settings(wildcards).evaluation
    if wildcards.evaluation not in known:
        raise WorkflowError(
            f"{wildcards.model} has no evaluation {wildcards.evaluation!r}, but {', '.join(known)}"
        )
    return known[wildcards.evaluation]


def lengths(wildcards):
    return study.lengths_of(
        model_settings(wildcards),
        wildcards.weights,
        wildcards.method,
        evaluation_settings(wildcards),
    )


def method_factors(wildcards):
    """The files that hold a method's factors for the lengths of an evaluation."""
    return study.factor_files(
        wildcards.model,
        model_settings(wildcards),
        wildcards.weights,
        wildcards.method,
        lengths(wildcards),
    )


def test_tokens(wildcards):
    settings = model_settings(wildcards)
    corpus = evaluation_settings(wildcards).corpus or study.corpus_of(settings, "test")
    return f"results/{wildcards.model}/data/{corpus}/test"


def perplexity_settings(wildcards):
    asked = evaluation_settings(wildcards)
    return as_json(
        PerplexityStage(
            evaluation=wildcards.evaluation,
            method=wildcards.method,
            windows=lengths(wildcards),
            stride=asked.stride,
            documents=asked.documents,
            at_least=asked.at_least,
            mode=asked.mode,
        )
    )


def passkey_settings(wildcards):
    return as_json(
        PasskeyStage(
            evaluation=wildcards.evaluation,
            method=wildcards.method,
            prompts=lengths(wildcards),
            key=evaluation_settings(wildcards).key,
            seed=STUDY.seed,
        )
    )


def question_files(wildcards):
    """What says which questions are asked: the manifest of local ones."""
    files = evaluation_settings(wildcards).files
    return [f"{files}/manifest.json"] if files else []


def benchmarks_settings(wildcards):
    asked = evaluation_settings(wildcards)
    return as_json(
        BenchmarksStage(
            evaluation=wildcards.evaluation,
            method=wildcards.method,
            window=asked.window,
            shots={name: asked.shots_of(name) for name in asked.benchmarks},
            questions=asked.questions,
            files=asked.files,
        )
    )


def haystack_files(wildcards):
    return [str(path) for path in inputs.files_of(evaluation_settings(wildcards).haystack)]


def ruler_settings(wildcards):
    asked = evaluation_settings(wildcards)
    return as_json(
        RulerStage(
            evaluation=wildcards.evaluation,
            method=wildcards.method,
            needles=asked.needles,
            prompts=lengths(wildcards),
            haystack=asked.haystack,
            seed=STUDY.seed,
        )
    )


# --- tables and figures ------------------------------------------------------------------------


def records_of(wildcards):
    """The evaluations that are shown in a table."""
    return targets.evaluation_files(STUDY, shown_in=wildcards.table)


def traces_of(wildcards):
    return targets.trace_files(STUDY, wildcards.table) if wildcards.table == "searches" else []


def trainings_of(wildcards):
    return targets.training_files(STUDY, wildcards.table) if wildcards.table == "tunings" else []


def figure_records(wildcards):
    return targets.figure_files(STUDY, wildcards.figure)


def shown_by(wildcards):
    """The table or figure that a rule of the report makes."""
    return wildcards.get("table") or wildcards.get("figure") or "summary"


def report_labels(wildcards):
    """What the report lists of it: short, as the list takes its room from what it shows.

    One label alone: of a second one that has two values in a part of two results, Snakemake's page
    makes a switch, and then shows nothing at all.
    """
    name = shown_by(wildcards)
    return {"shows": f"{contents.heading(name)}: {CONTENTS[name].title}"}


def report_part(wildcards):
    return CONTENTS[shown_by(wildcards)].part


def tables_among(names):
    return targets.tables_among(STUDY, names)


def figures_among(names):
    return targets.figures_among(STUDY, names)
