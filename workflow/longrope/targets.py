"""
The files that a configuration asks for in all: what target rules, tables and figures are made of.
"""

from collections.abc import Iterable, Iterator

from longrope.config import Config
from longrope.config.base import BASE
from longrope.config.evaluation import ABLATIONS, MAIN, EvaluationSettings
from longrope.study import (
    chain_of,
    factor_files,
    factors_path,
    lengths_of,
    searched,
    searches,
    tiers,
    trace_path,
)

FIGURES = tuple(
    each for each in (*MAIN, *ABLATIONS) if each.startswith("figure") or each == "depths"
)


def search_files(config: Config) -> list[str]:
    """The factors of every search on pre-trained and tuned weights."""
    return [
        factors_path(model, weights, method, window)
        for model, settings in config.models.items()
        for weights in [BASE, *settings.tunings]
        for method in searches(settings)
        for window in searched(settings, weights, method)
    ]


def recovery_files(config: Config) -> list[str]:
    """The factors of every recovered window."""
    return [
        factors_path(model, settings.extension.weights, "recovery", window)
        for model, settings in config.models.items()
        if settings.extension
        for window in settings.extension.recovery
    ]


def evaluations(
    config: Config, task: str | None = None, shown_in: str | None = None
) -> Iterator[tuple[str, str, EvaluationSettings]]:
    """Model, name and settings of every evaluation, of one task, or of one table or figure."""
    for model, settings in config.models.items():
        for name, asked in settings.evaluation.items():
            if task in (None, asked.task) and (shown_in is None or shown_in in asked.shown_in):
                yield model, name, asked


def evaluation_files(
    config: Config, task: str | None = None, shown_in: str | None = None
) -> list[str]:
    """The records of every evaluation, of one task, or of one table or figure."""
    return [
        f"results/{model}/{weights}/evaluation/{name}/{method}.json"
        for model, name, asked in evaluations(config, task, shown_in)
        for weights, methods in asked.methods.items()
        for method in methods
    ]


def untouched_files(config: Config, model: str) -> list[str]:
    """The records of a model as it was pre-trained."""
    evaluation = config.models[model].evaluation
    return [
        f"results/{model}/{BASE}/evaluation/{name}/none.json"
        for name, asked in evaluation.items()
        if "none" in asked.methods.get(BASE, ())
    ]


def trace_files(config: Config, shown_in: str) -> list[str]:
    """The traces of the searches and recoveries whose factors a table or figure is about."""
    found = {}  # in order, once each
    for model, _, asked in evaluations(config, shown_in=shown_in):
        settings = config.models[model]
        for weights, methods in asked.methods.items():
            for method in methods:
                lengths = lengths_of(settings, weights, method, asked)
                files = factor_files(model, settings, weights, method, lengths)
                if method == "extended":
                    files = tiers(model, settings)
                found |= dict.fromkeys(files)
    return [trace_path(path) for path in found if _is_searched(config, path)]


def _is_searched(config: Config, path: str) -> bool:
    _, model, _, _, method, *_ = path.split("/")
    return method == "recovery" or method in searches(config.models[model])


def training_files(config: Config, shown_in: str) -> list[str]:
    """The metrics of the tunings whose weights a table or figure is about, and of those before."""
    found = {}
    for model, _, asked in evaluations(config, shown_in=shown_in):
        for weights in asked.methods:
            chain = chain_of(config.models[model], weights)
            found |= {f"results/{model}/{each}/training/metrics.jsonl": None for each in chain}
    return list(found)


def figure2_files(config: Config) -> list[str]:
    """The factors that Figure 2 draws: those of every model's first searched window."""
    models = dict.fromkeys(model for model, _, _ in evaluations(config, shown_in="figure2"))
    windows = {model: searched(config.models[model], BASE) for model in models}
    return [
        factors_path(model, BASE, "search", found[0]) for model, found in windows.items() if found
    ]


def shown(config: Config, among: Iterable[str]) -> list[str]:
    """The tables and figures among these that the configuration has evaluations for."""
    asked = {each for _, _, evaluation in evaluations(config) for each in evaluation.shown_in}
    return [each for each in among if each in asked]


def figure_files(config: Config, figure: str) -> list[str]:
    """What a figure is drawn from: records, metrics of trainings, traces or factors."""
    match figure:
        case "figure2":
            return figure2_files(config)
        case "figure5" | "figure5c":
            return training_files(config, figure)
        case "figure6":
            return trace_files(config, figure)
    return evaluation_files(config, shown_in=figure)


def table_files(config: Config, table: str) -> list[str]:
    """What a table is made of: records, and traces or metrics where it is about their cost."""
    traces = trace_files(config, table) if table == "searches" else []
    trainings = training_files(config, table) if table == "tunings" else []
    return evaluation_files(config, shown_in=table) + traces + trainings


def tables_among(config: Config, names: Iterable[str]) -> list[str]:
    """The tables among these that the configuration has evaluations for, the summary included."""
    return [f"results/tables/{each}.md" for each in shown(config, names) if each not in FIGURES]


def figures_among(config: Config, names: Iterable[str]) -> list[str]:
    """The figures among these that the configuration has evaluations for."""
    return [f"results/figures/{each}.png" for each in shown(config, names) if each in FIGURES]


def extended_files(config: Config) -> list[str]:
    """The extended models."""
    return [
        f"results/{model}/{settings.extension.weights}/extended/extended.json"
        for model, settings in config.models.items()
        if settings.extension
    ]


def export_files(config: Config) -> list[str]:
    """The extended models in the forms that every supported family has."""
    return [
        path.replace("extended.json", form)
        for path in extended_files(config)
        for form in ("native", "full")
    ]


def export_records(config: Config, model: str, weights: str) -> list[str]:
    """The evaluations that an export's card shows: all tiers, and the last one throughout."""
    extension = config.models[model].extension
    throughout = "longest" if extension is None or extension.search else "tuned"
    return [
        f"results/{model}/{weights}/evaluation/{name}/{method}.json"
        for owner, name, asked in evaluations(config)
        if owner == model and asked.task in ("perplexity", "passkey")
        for method in ("extended", throughout)
        if method in asked.methods.get(weights, ())
    ]
