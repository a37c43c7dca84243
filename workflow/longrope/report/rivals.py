"""
The fair comparison of an extended model: with the best other factors on weights that were tuned as
its own were, or where nothing was tuned, with the best formula.

A tuned model beside untuned formulas shows what tuning brings, not what the search does.
"""

from collections.abc import Iterable, Iterator

from longrope.baselines import is_closed_form
from longrope.config import ModelSettings
from longrope.config.base import BASE
from longrope.report.load import Evaluation
from longrope.statistics import compare, compare_passkeys
from longrope.study import ON_TUNED, chain_of
from longrope.windows import window_label

BETTER = {"perplexity": min, "accuracy": max}  # of two rivals, by their value
Rivals = dict[str, dict[str, dict]]  # evaluation -> length -> weights, method, value and outcome


def taken_home(settings: ModelSettings) -> tuple[str | None, str]:
    """The weights and the method of the extended model; None if nothing is extended."""
    if settings.extension:
        return settings.extension.weights, "extended"
    return (BASE if settings.search else None), "search"


def best_rivals(settings: ModelSettings, evaluations: list[Evaluation], value: str) -> Rivals:
    """By evaluation and length the best other factors, and what the comparison with them says.

    `value` is `perplexity` or `accuracy`; where there is no other, an evaluation is left out.
    """
    weights, method = taken_home(settings)
    ours = [each for each in evaluations if (each.weights, each.method) == (weights, method)]
    found: Rivals = {}
    for own in ours:
        same = [each for each in evaluations if each.name == own.name]
        rivals = list(_others(settings, own, same))
        for length in own.lengths:
            if best := _best(own, rivals, length, value):
                found.setdefault(own.name, {})[window_label(length)] = best
    return found


def _others(
    settings: ModelSettings, own: Evaluation, evaluations: Iterable[Evaluation]
) -> Iterator[Evaluation]:
    """Closed forms on the same weights, or on others that were tuned alike with closed forms."""
    alike = _tuned_as(settings, own.weights)
    for each in evaluations:
        tuning, form = settings.tunings.get(each.weights), each.method.removesuffix(ON_TUNED)
        if each.method == "tuned" and tuning:
            form = tuning.method
        if is_closed_form(form) and form != "none" and _tuned_as(settings, each.weights) == alike:
            yield each


def _tuned_as(settings: ModelSettings, weights: str) -> list[str]:
    """How weights were tuned, from the pre-trained ones on, but for the factors."""
    chain = [settings.tunings[name] for name in chain_of(settings, weights)]
    return [tuning.model_dump_json(exclude={"start", "method"}) for tuning in chain]


def _best(own: Evaluation, rivals: list[Evaluation], length: int, value: str) -> dict | None:
    here = [each for each in rivals if length in each.factors and not own.runs_as(each, length)]
    if not here:
        return None
    best = BETTER[value](here, key=lambda each: each.results[length][value])
    sides = own.at(length), best.at(length)
    outcome = compare_passkeys(*sides) if value == "accuracy" else compare(*sides, length).outcome
    return {
        "weights": best.weights,
        "method": best.method,
        value: best.results[length][value],
        "outcome": outcome,
    }
