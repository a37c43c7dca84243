"""
What the study bears out and what it does not: every claim of the method as a paired comparison.

The claims follow from the configuration, not from the results. A comparison that LongRoPE loses,
or that the documents cannot decide, stands in the list like one that it wins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from longrope.baselines import is_closed_form
from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.files import write_json, write_text
from longrope.report.contents import HERE, index
from longrope.report.labels import row_label
from longrope.report.lines import number
from longrope.report.load import (
    Evaluation,
    accuracies,
    chosen,
    of_task,
    perplexities,
    read_evaluations,
)
from longrope.report.outcome import outcome
from longrope.report.page import page_of
from longrope.report.rivals import best_rivals
from longrope.statistics import compare, compare_passkeys
from longrope.windows import window_label

SCHEMA = 2  # of summary.json
GROUPS = {  # of claims, in the order of the method
    "first search": "Do searched factors beat the closed forms, without tuning?",
    "second search": "Beyond the tuned window, does the extended model beat other factors?",
    "tuned window": "At the tuned windows, does the extended model beat what was tuned otherwise?",
    "recovery": "At short windows, do recovered factors beat those of longer windows?",
}
NOTE = """# What the study bears out

Every comparison that the method's claims imply, on the same windows of the same held-out
documents: how much lower the mean loss of the row claimed better is, with a 95% interval
(Student's t over documents). **win**: the interval is above 0. **loss**: it is below 0, the claim
does not hold here. **tie**: it contains 0. **undecided**: a single document, no interval.
Intervals are not corrected for the number of comparisons. Perplexity is not retrieval: the last
part of each model has the same comparisons by passkeys found."""
RETRIEVAL = "Do they find more passkeys? (prompt by prompt, McNemar's exact test at 5%)"
OUTCOMES = ("win", "loss", "tie", "undecided")
Key = tuple[str, str]  # weights, method


@dataclass(frozen=True, slots=True)
class Claim:
    """That one evaluation is better than another at a length; not yet whether it is."""

    group: str  # one of GROUPS
    length: int
    better: Evaluation
    than: Evaluation


def write_summary(config: Config, records: list[Path], out: Path) -> None:
    """Write `out` with the ending .json, and the same for people to read as .md and .html."""
    summary = summarise(config, records)
    write_json(out.with_suffix(".json"), summary)
    markdown = _markdown(config, summary)
    write_text(out.with_suffix(".md"), markdown)
    write_text(out.with_suffix(".html"), page_of(markdown))


def summarise(config: Config, records: list[Path]) -> dict:
    """The blow-up, the claims with their outcomes and all scores of every model, as plain JSON."""
    evaluations = read_evaluations(config, records)
    scored, retrieved = (of_task(evaluations, task) for task in ("perplexity", "passkey"))
    models = {}
    for model, settings in config.models.items():
        everything = {BASE, *settings.tunings}
        own, found = (chosen(each, model, everything) for each in (scored, retrieved))
        models[model] = {
            "blow_up": _blow_up(own, settings),
            "claims": [
                _tested(model, settings, claim)
                for name in settings.evaluation
                for claim in claims(settings, [each for each in own if each.name == name])
            ],
            "retrieval": [
                _retrieved(settings, claim)
                for name in settings.evaluation
                for claim in claims(settings, [each for each in found if each.name == name])
            ],
            "perplexity": _nested(
                perplexities(own),
                ["perplexity", "perplexity_document_mean", "tokens", "windows", "documents"],
            ),
            "passkey": _nested(
                accuracies(found),
                ["accuracy", "found", "prompts", "low", "high"],
            ),
            "rivals": {
                "perplexity": best_rivals(settings, own, "perplexity"),
                "passkey": best_rivals(settings, found, "accuracy"),
            },
        }
    return {"schema": SCHEMA, "models": models}


def claims(settings: ModelSettings, evaluations: list[Evaluation]) -> Iterator[Claim]:
    """Every claim of the method that both sides of were evaluated, for one model on one text.

    Two evaluations that ran the same weights with the same factors are not set against each other.
    """

    def against(group: str, better: Key, length: int, rivals: list[Key]) -> Iterator[Claim]:
        at_length = {(each.weights, each.method): each for each in evaluations}
        at_length = {key: each for key, each in at_length.items() if length in each.factors}
        for key in rivals:
            if better in at_length and key in at_length and key != better:
                claim = Claim(group, length, at_length[better], at_length[key])
                if not claim.better.runs_as(claim.than, length):
                    yield claim

    keys = [(each.weights, each.method) for each in evaluations]
    closed = [(weights, form) for weights, form in keys if weights == BASE and is_closed_form(form)]
    for length in sorted(settings.search):
        yield from against("first search", (BASE, "search"), length, closed)
    if not (extension := settings.extension):
        return
    own, extended = extension.weights, (extension.weights, "extended")
    tuned = [(weights, method) for weights, method in keys if weights != BASE]
    others = [(weights, method) for weights, method in tuned if weights != own]
    for length in sorted(extension.search):
        yield from against("second search", extended, length, tuned)
    for length in sorted({each.window for each in settings.tunings.values()}):
        if length not in extension.search:
            yield from against("tuned window", extended, length, others)
    for length in sorted(extension.recovery):
        yield from against("recovery", extended, length, [(own, "longest"), (own, "tuned")])


def _tested(model: str, settings: ModelSettings, claim: Claim) -> dict:
    """A claim with what the records say of it."""
    better, than, label = claim.better, claim.than, window_label(claim.length)
    found = compare(better.at(claim.length), than.at(claim.length), claim.length)
    ours, theirs = (row_label(settings, each.weights, each.method) for each in (better, than))
    sides = [f"{each.weights}.{each.method}" for each in (better, than)]
    return {
        "id": "/".join([model, better.name, claim.group.replace(" ", "-"), label, *sides]),
        "group": claim.group,
        "statement": f"at {label}, {ours} has a lower loss than {theirs}",
        "model": model,
        "text": better.name,
        "length": label,
        "better": {"weights": better.weights, "method": better.method},
        "than": {"weights": than.weights, "method": than.method},
        "difference_nats": found.difference,
        "interval": list(found.interval) if found.interval else None,
        "windows": found.windows,
        "documents": found.documents,
        "document_ids": sorted({each["document"] for each in better.at(claim.length)}),
        "outcome": found.outcome,
    }


def _retrieved(settings: ModelSettings, claim: Claim) -> dict:
    """The same for passkeys: how many of the same prompts each side finds."""
    (ours,), (theirs,) = (each.at(claim.length) for each in (claim.better, claim.than))
    return {
        "group": claim.group,
        "text": claim.better.name,
        "length": window_label(claim.length),
        "better": {"weights": claim.better.weights, "method": claim.better.method},
        "than": {"weights": claim.than.weights, "method": claim.than.method},
        "found": [ours["found"], theirs["found"]],
        "prompts": ours["prompts"],
        "outcome": compare_passkeys([ours], [theirs]),
    }


def _blow_up(evaluations: list[Evaluation], settings: ModelSettings) -> dict | None:
    """How perplexity grows beyond the original window if nothing is done; None if not evaluated."""
    if settings.rope == "own":  # others have done something
        return None
    original = settings.original_window
    untouched = [each for each in evaluations if (each.weights, each.method) == (BASE, "none")]
    untouched = [each for each in untouched if each.name == untouched[0].name]
    found = perplexities(untouched).set_index("length").perplexity.to_dict()
    if original not in found:
        return None
    return {
        "original_window": window_label(original),
        "perplexity": found[original],
        "longer": {
            window_label(length): {"perplexity": value, "ratio": value / found[original]}
            for length, value in found.items()
            if length > original
        },
    }


def _nested(frame: pd.DataFrame, values: list[str]) -> dict:
    """evaluation -> weights -> method -> length -> values."""
    tree: dict = {}
    for row in frame.to_dict("records"):
        methods = tree.setdefault(row["evaluation"], {}).setdefault(row["weights"], {})
        methods.setdefault(row["method"], {})[window_label(row["length"])] = {
            name: row[name] for name in values
        }
    return tree


# --- for people -------------------------------------------------------------------------------


def _markdown(config: Config, summary: dict) -> str:
    parts = [NOTE]
    for model, found in summary["models"].items():
        if config.models[model].rope == "own":
            parts += [f"## {model}", "Measured with the RoPE that it comes with."]
            continue
        after = len(parts) + 1
        parts += [f"## {model}", *outcome(model, config.models[model], found)]
        parts.append(_blow_up_sentence(found["blow_up"]))
        for group, statement in GROUPS.items():
            if tested := [claim for claim in found["claims"] if claim["group"] == group]:
                parts += [f"### {statement}", _tally(tested)]
                parts.append(_claims_table(config.models[model], tested))
        if everything := found["claims"] + found["retrieval"]:
            parts.insert(after, f"{HERE}{model}. {_tally(everything)}")
        if found["retrieval"]:
            parts += [f"### {RETRIEVAL}", _tally(found["retrieval"])]
            parts.append(_retrieval_table(config.models[model], found["retrieval"]))
        if not found["claims"]:
            parts.append("This configuration evaluates no two methods that a claim compares.")
    parts += ["## Tables and figures", index(config)]
    return "\n\n".join(parts) + "\n"


def _blow_up_sentence(blow_up: dict | None) -> str:
    if not blow_up or not blow_up["longer"]:
        return "The pre-trained model was not evaluated beyond its original window."
    grown = ", ".join(
        f"{number(each['perplexity'])} at {label} ({_times(each['ratio'])})"
        for label, each in blow_up["longer"].items()
    )
    return (
        f"Left as it is, the pre-trained model has perplexity {number(blow_up['perplexity'])} at"
        f" its original window of {blow_up['original_window']}, and {grown}."
    )


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times" if ratio < 1000 else "over 1000 times"


def _tally(tested: list[dict]) -> str:
    """How often each outcome came, all four of them."""
    counts = {name: sum(claim["outcome"] == name for claim in tested) for name in OUTCOMES}
    return "Of {} comparisons: {}.".format(
        len(tested), ", ".join(f"{name} {count}" for name, count in counts.items())
    )


def _claims_table(settings: ModelSettings, tested: list[dict]) -> str:
    lines = [
        "| text | length | claimed better | than | nats a token [95%] | windows (documents)"
        " | outcome |",
        "| :-- | --: | :-- | :-- | --: | --: | :-- |",
    ]
    for claim in tested:
        ours, theirs = (row_label(settings, **claim[side]) for side in ("better", "than"))
        interval = claim["interval"]
        reach = f" [{interval[0]:+.4f}, {interval[1]:+.4f}]" if interval else ""
        lines.append(
            f"| {claim['text']} | {claim['length']} | {ours} | {theirs}"
            f" | {claim['difference_nats']:+.4f}{reach}"
            f" | {claim['windows']} ({claim['documents']}) | {claim['outcome']} |"
        )
    return "\n".join(lines)


def _retrieval_table(settings: ModelSettings, tested: list[dict]) -> str:
    lines = [
        "| prompts | length | claimed better | than | passkeys found | outcome |",
        "| :-- | --: | :-- | :-- | --: | :-- |",
    ]
    for claim in tested:
        ours, theirs = (row_label(settings, **claim[side]) for side in ("better", "than"))
        own, other = claim["found"]
        lines.append(
            f"| {claim['text']} | {claim['length']} | {ours} | {theirs}"
            f" | {own} and {other} of {claim['prompts']} | {claim['outcome']} |"
        )
    return "\n".join(lines)
