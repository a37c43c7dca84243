"""
What the texts of a corpus must hold for what a configuration asks of them. Nothing is read.
"""

from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.config.corpus import Need
from longrope.study import budgets_of, corpus_of, searched, searches
from longrope.windows import window_label


def needs(config: Config, model: str, corpus: str) -> list[Need]:
    """What the configured stages of a model need of a corpus; what another implies is left out.

    They are parameters of the tokenisation: the fewer, the fewer changes run it again.
    """
    settings = config.models[model]
    found = _evaluation_needs(settings, corpus) + _method_needs(settings, corpus)
    kept: list[Need] = []
    for need in sorted(found, key=_size, reverse=True):
        if not any(_implies(each, need) for each in kept):
            kept.append(need)
    return kept


def _size(need: Need) -> tuple[int, int, int]:
    return need.tokens, need.documents, need.windows


def _implies(more: Need, less: Need) -> bool:
    """Whether a corpus that serves one need serves the other."""
    enough = (own >= other for own, other in zip(_size(more), _size(less), strict=True))
    return more.split == less.split and all(enough)


def _evaluation_needs(settings: ModelSettings, corpus: str) -> list[Need]:
    return [
        Need(
            split="test",
            documents=windows if asked.mode == "truncate" else 1,
            tokens=max(length, asked.at_least or 0),
            reason=f"evaluation.{name} at {window_label(length)}",
            windows=1 if asked.at_least else windows,  # of the length: known when it is measured
        )
        for name, asked in settings.evaluation.items()
        if asked.task == "perplexity" and (asked.corpus or corpus_of(settings, "test")) == corpus
        for length, windows in asked.windows.items()
        if asked.methods
    ]


def _method_needs(settings: ModelSettings, corpus: str) -> list[Need]:
    budgets = []
    for weights in [BASE, *settings.tunings]:
        if corpus_of(settings, "validation", weights) != corpus:
            continue
        for method, (variant, _) in searches(settings).items():
            known = budgets_of(settings, weights)
            windows = searched(settings, weights, method)
            budgets += [(window, variant.budget or known[window]) for window in windows]
    extension = settings.extension
    if extension and corpus_of(settings, "validation", extension.weights) == corpus:
        budgets += extension.recovery.items()
    found = [
        Need(
            split="validation",
            documents=budget.documents,
            tokens=window,
            reason=f"the search at {window_label(window)}",
        )
        for window, budget in budgets
    ]
    found += [
        Need(
            split="train",
            documents=1,
            tokens=tuning.sequence_length,
            reason=f"the tuning {name!r} at {window_label(tuning.window)}",
        )
        for name, tuning in settings.tunings.items()
        if corpus_of(settings, "train") == corpus
    ]
    return found
