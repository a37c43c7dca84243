"""
What came of an extension, as its user asks first: is the long window of use, what did it cost at
the original one, and where is the model?

Read from the scores in the summary; nothing is compared here that was not measured.
"""

from collections.abc import Iterator

from longrope.baselines import is_closed_form
from longrope.config import ModelSettings
from longrope.config.base import BASE
from longrope.report.labels import method_label
from longrope.report.lines import number
from longrope.study import factors_path
from longrope.windows import parse_window, window_label

TITLE = "### What came of it"
NONE = "–"  # not measured
MEASURES = {  # of the summary: key -> value, what it is called, and which of two is better
    "perplexity": ("perplexity", "perplexity", min),
    "passkey": ("accuracy", "passkeys found", max),
}


def outcome(model: str, settings: ModelSettings, found: dict) -> list[str]:
    """Paragraphs and tables, from `found`, the scores of one model; none if it is not extended."""
    weights, method, one = _taken_home(settings)
    if weights is None:
        return []
    parts = []
    for measure in MEASURES:
        for name, scores in found[measure].items():
            if rows := list(_rows(scores, measure, settings, weights, method)):
                parts.append(_table(name, measure, rows))
                if measure == "perplexity":
                    parts += _lost(name, scores, settings, weights, method, one)
    return [TITLE, *parts, _place(model, settings, weights)] if parts else []


def _taken_home(settings: ModelSettings) -> tuple[str | None, str, str]:
    """The weights and the method of the extended model, and the method that has one table of it."""
    if extension := settings.extension:
        return extension.weights, "extended", "longest" if extension.search else "tuned"
    return (BASE if settings.search else None), "search", "longest"


def _rows(
    scores: dict, measure: str, settings: ModelSettings, weights: str, method: str
) -> Iterator[list[str]]:
    """Length, untouched, the best formula, extended: of every length that was measured extended."""
    value, _, best = MEASURES[measure]
    base = scores.get(BASE, {})
    for label in sorted(scores.get(weights, {}).get(method, {}), key=parse_window):
        formulas = {
            form: lengths[label][value]
            for form, lengths in base.items()
            if form != "none" and is_closed_form(form) and label in lengths
        }
        formula = NONE
        if formulas:
            form = best(formulas, key=formulas.__getitem__)
            formula = f"{_said(measure, formulas[form])} ({method_label(settings, BASE, form)})"
        untouched = base.get("none", {}).get(label)
        yield [
            label,
            _said(measure, untouched[value]) if untouched else NONE,
            formula,
            _said(measure, scores[weights][method][label][value]),
        ]


def _said(measure: str, value: float) -> str:
    return number(value) if measure == "perplexity" else f"{value:.0%}"


def _table(name: str, measure: str, rows: list[list[str]]) -> str:
    _, called, _ = MEASURES[measure]
    head = f"| {called} ({name}) at | model as it came | best formula, untuned | extended |"
    return "\n".join(
        [head, "| --: | --: | :-- | --: |", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def _lost(
    name: str, scores: dict, settings: ModelSettings, weights: str, method: str, one: str
) -> list[str]:
    """What the extension cost at the original window, with its factors there and with one table."""
    label = window_label(settings.original_window)
    before = scores.get(BASE, {}).get("none", {}).get(label)
    ways = {
        "with the factors of that window": method,
        "with the factors of the longest window throughout, as most exports have them": one,
    }
    if weights == BASE:  # within its window that model keeps the RoPE that it came with
        del ways["with the factors of that window"]
    own = scores.get(weights, {})
    after = {way: own.get(each, {}).get(label) for way, each in ways.items()}
    said = [
        f"{number(each['perplexity'])} ({each['perplexity'] / before['perplexity'] - 1:+.1%}) {way}"
        for way, each in after.items()
        if before and each
    ]
    if not said:
        return [f"What it lost at the original window of {label} was not measured ({name})."]
    return [
        f"At the original window of {label} perplexity was {number(before['perplexity'])} before"
        f" and is {', '.join(said)} ({name})."
    ]


def _place(model: str, settings: ModelSettings, weights: str) -> str:
    """Where the model is, and how it gets to other tools."""
    folder = f"results/{model}/{weights}"
    factors = f"{folder}/extended/extended.json"
    loads = f'longrope.load("{folder}")'
    if weights == BASE:
        factors = factors_path(model, BASE, "search", max(settings.search))
        loads = f'longrope.load("{folder}/model", "{factors}")'
    return (
        f"The model is in `{folder}/model`, its factors in `{factors}`; in Python: `{loads}`. For"
        f" other tools: `export/` if `longrope extend` made it, else `longrope export --model"
        f" {folder}/model --factors {factors} --out FOLDER`."
    )
