"""
What came of an extension, as its user asks first: is the long window of use, what did it cost at
the original one, and where is the model?

Read from the scores in the summary; nothing is compared here that was not measured.
"""

from collections.abc import Iterator

from longrope.baselines import is_closed_form
from longrope.config import ModelSettings
from longrope.config.base import BASE
from longrope.report.labels import method_label, row_label
from longrope.report.lines import number
from longrope.report.rivals import taken_home
from longrope.study import factors_path, is_trial
from longrope.windows import parse_window, window_label

TITLE = "### What came of it"
NONE = "–"  # not measured
FORMULA, ALIKE = "best formula, untuned", "best other factors, tuned alike"
VERDICT = "than those factors, extended is"  # tuned alike, or of an untuned model the formula
SAME = "the same factors"
OUTCOMES = {  # of the paired comparison, for people
    "win": "better",
    "loss": "worse",
    "tie": "not told apart",
    "undecided": "undecided: one document",
}
MEASURES = {  # of the summary: key -> value, what it is called, and which of two is better
    "perplexity": ("perplexity", "perplexity", min),
    "passkey": ("accuracy", "passkeys found", max),
}
TRIAL = (
    "**This is a trial.** Its searches score too few candidates to find anything, and what follows"
    " was measured on next to nothing: it shows that every stage runs, no more."
)
BESIDE = (
    f"`{VERDICT}`: what the paired comparison says of it beside {{}}, on the same windows and"
    " prompts (95%); a dash: not measured."
)


def outcome(model: str, settings: ModelSettings, found: dict) -> list[str]:
    """Paragraphs and tables, from `found`, the scores of one model; none if it is not extended."""
    weights, method = taken_home(settings)
    if weights is None:
        return []
    one = "longest" if method == "search" or settings.extension.search else "tuned"
    parts, compared = [], False
    for measure in MEASURES:
        for name, scores in found[measure].items():
            rivals = found["rivals"][measure].get(name, {})
            if rows := list(_rows(scores, rivals, measure, settings)):
                parts.append(_table(name, measure, rows))
                compared = compared or any(row[VERDICT] != NONE for row in rows)
                if measure == "perplexity":
                    parts += _lost(name, scores, settings, weights, method, one)
    if compared:
        parts.append(BESIDE.format(f"`{FORMULA if weights == BASE else ALIKE}`"))
    trial = [TRIAL] if is_trial(settings) else []
    return [TITLE, *trial, *parts, _place(model, settings, weights)] if parts else []


def outcome_lines(settings: ModelSettings, found: dict) -> list[str]:
    """The same in a line a measure, at the longest length that was measured extended."""
    said = []
    if taken_home(settings)[0] is None:
        return []
    for measure, (_, called, _) in MEASURES.items():
        for name, scores in found[measure].items():
            rivals = found["rivals"][measure].get(name, {})
            for row in list(_rows(scores, rivals, measure, settings))[-1:]:
                shown = {key: row.get(key, NONE) for key in ("model as it came", FORMULA, ALIKE)}
                others = [f"{key} {cell}" for key, cell in shown.items() if cell != NONE]
                verdict = f": {row[VERDICT]}" if row[VERDICT] != NONE else ""
                said.append(
                    f"{called} ({name}) at {row['at']}: {row['extended']} extended{verdict};"
                    f" {', '.join(others) or 'nothing beside it was measured'}"
                )
    return said


def _rows(
    scores: dict, rivals: dict, measure: str, settings: ModelSettings
) -> Iterator[dict[str, str]]:
    """Cells by heading, of every length that was measured extended."""
    value, _, best = MEASURES[measure]
    weights, method = taken_home(settings)
    base = scores.get(BASE, {})
    for label in sorted(scores.get(weights, {}).get(method, {}), key=parse_window):
        own, untouched = scores[weights][method][label], base.get("none", {}).get(label)
        formulas = {
            form: lengths[label][value]
            for form, lengths in base.items()
            if form != "none" and is_closed_form(form) and label in lengths
        }
        row = {
            "at": label,
            "model as it came": _said(measure, untouched[value]) if untouched else NONE,
            FORMULA: NONE,
        }
        if formulas:
            form = best(formulas, key=formulas.__getitem__)
            row[FORMULA] = (
                f"{_said(measure, formulas[form])} ({method_label(settings, BASE, form)})"
            )
        rival = rivals.get(label)
        if weights != BASE:
            row[ALIKE] = NONE
            if rival:
                label_of = row_label(settings, rival["weights"], rival["method"])
                row[ALIKE] = f"{_said(measure, rival[value])} ({label_of})"
        row["extended"] = _said(measure, own[value])
        row[VERDICT] = OUTCOMES[rival["outcome"]] if rival else NONE
        if weights == BASE and formulas and (rival is None or rival["method"] != form):
            row[VERDICT] = SAME  # rivals are those with other factors
        if measure == "perplexity":
            row["windows (documents)"] = f"{own['windows']} ({own['documents']})"
        else:
            row["prompts"] = str(own["prompts"])
        yield row


def _said(measure: str, value: float) -> str:
    return number(value) if measure == "perplexity" else f"{value:.0%}"


def _table(name: str, measure: str, rows: list[dict[str, str]]) -> str:
    """In Markdown; without a column in which nothing was compared."""
    _, called, _ = MEASURES[measure]
    shown = [
        each
        for each in rows[0]
        if each not in (ALIKE, VERDICT) or any(row[each] != NONE for row in rows)
    ]
    heads = [f"{called} ({name}) at", *shown[1:]]
    marks = [":--" if each in (FORMULA, ALIKE, VERDICT) else "--:" for each in shown]
    lines = [heads, marks, *([row[each] for each in shown] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
