"""
What all rules share: the checked configuration, wildcards, and, stage by stage, the functions that
give a rule its inputs and its settings as one JSON string. What a configuration means is decided
in workflow/longrope/study.py; here it only meets wildcards.
"""

import re

from longrope.baselines import CLOSED_FORMS
from longrope.config import NAME
from longrope.errors import UserError
from longrope.study import ON_TUNED, load_config
from longrope.versions import VERSIONS
from longrope.windows import PATTERN, parse_window, window_label
from longrope import config as typed
from longrope import study
from snakemake.exceptions import WorkflowError

try:
    STUDY = load_config(config)
except UserError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    model=NAME,
    weights=NAME,
    corpus=NAME,
    window=PATTERN,
    search=f"search(-{NAME})?|recovery",
    form="|".join([*CLOSED_FORMS, *[f"{each}{ON_TUNED}" for each in CLOSED_FORMS]]),


# The environment for --sdm conda; without that flag the one that runs snakemake is used.
ENVIRONMENT = "../../envs/longrope.yaml"


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
        corpus = model_settings(wildcards).corpus
        return f"results/{wildcards.model}/data/{corpus}/{split}"

    return tokens


# --- models ------------------------------------------------------------------------------------


IMPORTED = [name for name, each in STUDY.models.items() if each.source.kind != "pretrain"]


PRETRAINED = [name for name, each in STUDY.models.items() if each.source.kind == "pretrain"]


def either(names):
    """A wildcard constraint for some names; with none, it matches nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def model_files(wildcards):
    return study.source_files(model_settings(wildcards).source)


def import_settings(wildcards):
    settings = model_settings(wildcards)
    return as_json(
        typed.ImportStage(source=settings.source, original_window=settings.original_window)
    )


def pretrain_settings(wildcards):
    settings = model_settings(wildcards)
    return as_json(
        typed.PretrainStage(
            model=settings.source,
            corpus=STUDY.corpora[settings.corpus],
            original_window=settings.original_window,
            seed=STUDY.seed,
        )
    )


# --- corpora -----------------------------------------------------------------------------------


def corpus_files(wildcards):
    return study.source_files(STUDY.corpora[wildcards.corpus].source)


def model_corpus_files(wildcards):
    return study.source_files(STUDY.corpora[model_settings(wildcards).corpus].source)


def corpus_settings(wildcards):
    return as_json(
        typed.TokenizeSettings(
            corpus=STUDY.corpora[wildcards.corpus],
            needs=study.needs(STUDY, wildcards.model),
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
    return as_json(typed.TuningStage(name=wildcards.weights, tuning=tuning, seed=STUDY.seed))


def start_model(wildcards):
    tuning = model_settings(wildcards).tunings[wildcards.weights]
    return f"results/{wildcards.model}/{tuning.start}/model"


def tuning_factors(wildcards):
    return study.tuned_path(wildcards.model, model_settings(wildcards), wildcards.weights)


# --- extended models ---------------------------------------------------------------------------


def tier_factors(wildcards):
    return study.tiers(wildcards.model, model_settings(wildcards))


# --- evaluations -------------------------------------------------------------------------------


def lengths(wildcards, task):
    settings = model_settings(wildcards)
    return study.lengths_of(settings, wildcards.weights, wildcards.method, task)


def method_factors(wildcards, task):
    return study.factor_files(
        wildcards.model,
        model_settings(wildcards),
        wildcards.weights,
        wildcards.method,
        lengths(wildcards, task),
    )


def perplexity_factors(wildcards):
    return method_factors(wildcards, model_settings(wildcards).evaluation.perplexity)


def perplexity_settings(wildcards):
    task = model_settings(wildcards).evaluation.perplexity
    windows = lengths(wildcards, task)
    return as_json(
        typed.PerplexityStage(method=wildcards.method, windows=windows, stride=task.stride)
    )


def passkey_factors(wildcards):
    return method_factors(wildcards, model_settings(wildcards).evaluation.passkey)


def passkey_settings(wildcards):
    task = model_settings(wildcards).evaluation.passkey
    prompts = lengths(wildcards, task)
    return as_json(
        typed.PasskeyStage(method=wildcards.method, prompts=prompts, key=task.key, seed=STUDY.seed)
    )


# --- figures -----------------------------------------------------------------------------------


def figure_records(wildcards):
    return {
        "figure1": study.evaluation_files(STUDY, "perplexity"),
        "figure4": study.evaluation_files(STUDY, "passkey"),
        "figure5": study.training_files(STUDY),
        "figure6": study.trace_files(STUDY),
    }[wildcards.figure]
