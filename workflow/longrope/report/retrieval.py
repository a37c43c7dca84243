"""
Tables of what is found again: passkeys by length, and RULER's needles in blocks of their own.

Bold is the highest share of a column, and whatever the comparison prompt by prompt does not tell
from it: among untuned and among tuned rows, of passkeys or of one needle. Where the highest is 0,
nothing is bold.
"""

from collections.abc import Callable, Iterator

import pandas as pd

from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.report.labels import drills, row_label
from longrope.report.lines import attention_of
from longrope.report.load import Evaluation, accuracies, of_task
from longrope.report.sources import Sources
from longrope.report.table import FACTOR, LABEL, NO_ROWS, NOTHING, Table, share
from longrope.statistics import compare_passkeys
from longrope.windows import window_label

TUNED_ON = "other than text in tuning"
ESSAYS = ("niah_single_2", "niah_single_3", "niah_multikey_1")  # the needles that lie in them
WORDS = ("model", "text", LABEL, "source", FACTOR, "protocol", TUNED_ON)
PASSKEY = (
    "Per cent of passkeys found, with the 95% Wilson interval: a key at a random depth of the"
    " paper's filler text, prompt and answer together of exactly the length; greedy decoding; only"
    " the key itself counts. Every method reads the same prompts. Bold: the highest of a column"
    " among tuned and among untuned rows, and everything that the comparison prompt by prompt"
    " (McNemar's exact test at 5%) does not tell from it; nothing where the highest is 0."
    " `other than text in tuning` is"
    " the share of passkey documents (digits-K, word) and other drills in the data that the"
    " weights were tuned on, tuning after tuning; a model's card tells of its pre-training."
)
RULER = (
    " Rows of RULER are its needle tasks by lm-evaluation-harness: a word's number or uuid, alone"
    " (single) or among other keys (multikey), found if it stands anywhere in 128 new tokens, the"
    " prompt and these together at most the length; where RULER has essays there are the texts"
    " named. They are other questions than the passkey's: compare them within a block, one needle"
    " at a time, as bold does."
)


def passkey_table(config: Config, sources: Sources) -> Table:
    """Passkeys found, by length; the paper shows its own in Figure 4 only, without numbers."""
    return _retrieved("passkey", config, sources)


def retrieval_table(config: Config, sources: Sources) -> Table:
    """The same and RULER's needles: a model may pass the one and fail the other."""
    return _retrieved("retrieval", config, sources)


def _retrieved(name: str, config: Config, sources: Sources) -> Table:
    rows, bold, rules, found = [], set(), set(), []
    of_passkeys = list(sources.texts(config, "passkey"))
    of_needles = list(sources.texts(config, "ruler"))
    for model, _, own in of_passkeys:
        settings = config.models[model]
        rules.add(len(rows))
        bold |= {(len(rows) + row, window_label(at)) for row, at in _unbeaten(own, _passkeys)}
        rows += [_passkey_row(settings, each) for each in own]
        rules.add(len(rows))
        rows.append(_amounts(own, "prompts"))
        found.append(_best_finder(settings, own))
    for model, _, own in of_needles:
        rules.add(len(rows))
        needles = list(dict.fromkeys(each for one in own for each in one.protocol["needles"]))
        for needle in needles:  # with the rows of one needle below each other
            asked = [each for each in own if needle in each.protocol["needles"]]
            best = _unbeaten(asked, lambda each, at, needle=needle: _needle(each, at, needle))
            bold |= {(len(rows) + row, window_label(at)) for row, at in best}
            rows += [_needle_row(config.models[model], each, needle) for each in asked]
        rows.append(_amounts(own, "prompts of each"))
        found.append(_most_needles(own))
    everything = [each for *_, own in (*of_passkeys, *of_needles) for each in own]
    lengths = sorted({length for each in everything for length in each.lengths})
    columns = [*WORDS, *map(window_label, lengths)]
    frame = pd.DataFrame(rows, columns=columns, dtype=object).fillna(NOTHING)
    caption = "Passkey retrieval by length: the counterpart of the paper's Figure 4."
    caption += " Below RULER's needles, which the paper has not." if of_needles else ""
    caption += "" if rows else NO_ROWS
    note = PASSKEY + (RULER if of_task(sources.evaluations, "ruler") else "")
    said = " ".join(found)
    return Table(name, caption, frame, note, said, frozenset(bold), frozenset(rules), WORDS)


def _unbeaten(
    own: list[Evaluation], record: Callable[[Evaluation, int], dict]
) -> Iterator[tuple[int, int]]:
    """Position and length of what finds most, and of what is not told from it."""
    for tuned in (False, True):
        rivals = [(n, each) for n, each in enumerate(own) if (each.weights != BASE) is tuned]
        for length in sorted({length for _, each in rivals for length in each.lengths}):
            here = {n: record(each, length) for n, each in rivals if length in each.lengths}
            best = max(here.values(), key=lambda each: each["found"])
            if len(here) < 2 or not best["found"]:
                continue
            for n, each in here.items():
                if each is best or compare_passkeys([best], [each]) == "tie":
                    yield n, length


def _passkeys(evaluation: Evaluation, length: int) -> dict:
    (record,) = evaluation.at(length)
    return record


def _needle(evaluation: Evaluation, length: int, needle: str) -> dict:
    return next(each for each in evaluation.at(length) if each["needle"] == needle)


def _passkey_row(settings: ModelSettings, evaluation: Evaluation) -> dict[str, str]:
    protocol = f"key {evaluation.protocol['key']}, {evaluation.protocol['decoding']}"
    return _row(settings, evaluation, protocol, evaluation.results)


def _needle_row(settings: ModelSettings, evaluation: Evaluation, needle: str) -> dict[str, str]:
    protocol = f"RULER {needle}"
    if needle in ESSAYS:
        protocol += f", essays: {evaluation.protocol['haystack']}"
    found = {length: each[needle] for length, each in evaluation.results.items()}
    return _row(settings, evaluation, protocol, found)


def _row(
    settings: ModelSettings, evaluation: Evaluation, protocol: str, found: dict[int, dict]
) -> dict[str, str]:
    return {
        "model": evaluation.model,
        "text": evaluation.name,
        LABEL: row_label(settings, evaluation.weights, evaluation.method),
        "source": "ours",
        FACTOR: attention_of([(evaluation, length) for length in evaluation.lengths]),
        "protocol": protocol,
        TUNED_ON: drills(settings, evaluation.weights),
        **{window_label(length): share(each) for length, each in sorted(found.items())},
    }


def _amounts(own: list[Evaluation], label: str) -> dict[str, str]:
    """How many prompts there were at each length."""
    amounts: dict[str, list[str]] = {}
    for record in (record for each in own for record in each.records):
        amounts.setdefault(window_label(record["length"]), []).append(str(record["prompts"]))
    words = {"model": own[0].model, "text": own[0].name, LABEL: label, "source": "ours"}
    return words | {at: " or ".join(dict.fromkeys(each)) for at, each in amounts.items()}


def _best_finder(settings: ModelSettings, own: list[Evaluation]) -> str:
    """Who finds 90% at the longest length, and who most at the longest of all."""
    frame = accuracies(own)
    frame["label"] = [
        row_label(settings, row.weights, row.method) for row in frame.itertuples(index=False)
    ]
    good = frame[frame.accuracy >= 0.9]
    far = "nobody finds 90%"
    if len(good):
        reach = good.length.max()
        names = " and ".join(good[good.length == reach].label)
        far = f"90% are found to {window_label(int(reach))}, by {names}"
    longest = frame[frame.length == frame.length.max()]
    best = longest.loc[longest.accuracy.idxmax()]
    return (
        f"{best.model}, {best.evaluation}: {far}; at {window_label(int(best.length))} most by"
        f" {best.label}, {best.found} of {best.prompts}."
    )


def _most_needles(own: list[Evaluation]) -> str:
    """The most needles of RULER that any row finds at a length."""
    records = [record for each in own for record in each.records]
    best = max(records, key=lambda record: record["found"] / record["prompts"])
    return f"RULER's needles: at most {best['found']} of {best['prompts']}."
