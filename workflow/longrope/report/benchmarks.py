"""
Table 8 of the paper, benchmarks of short questions, and their average for Table 10.
"""

import math
from collections.abc import Iterator
from statistics import fmean

import pandas as pd

from longrope.config import Config
from longrope.config.evaluation import SHOTS
from longrope.evaluate.harness import BENCHMARKS
from longrope.report.labels import row_label
from longrope.report.load import Evaluation
from longrope.report.paper import last_of_base, paper_method, paper_numbers, paper_rows
from longrope.report.sources import Sources
from longrope.report.table import (
    FACTOR,
    LABEL,
    NO_ROWS,
    NOTHING,
    OWN,
    TEXT_COLUMNS,
    Column,
    Table,
    Written,
    span,
)
from longrope.statistics import Z
from longrope.windows import window_label

LABELS = {name: each.label for name, each in BENCHMARKS.items()}
CAPTION = (
    "Benchmarks by lm-evaluation-harness at short lengths, per cent with the standard error: the"
    " counterpart of the paper's Table 8."
)
NOTE = (
    "Accuracy normalised by the length of the answers (ARC-Challenge, HellaSwag), accuracy (MMLU),"
    " likelihood of the true answers (TruthfulQA MC2). Every sequence runs with the factors of its"
    " own whole length, none is cut. Bold: the highest of a model's rows, and everything within"
    f" {Z:.2f} joint standard errors of it (all are asked the same, so comparing question by"
    " question could tell more apart). `questions (of)`: how many were asked, of how many in the"
    f" published part. `(chance)`: within {Z:.2f} standard errors of guessing. MC2 adds up"
    " likelihoods, which are higher for short answers: there a model that knows nothing need not be"
    " at chance."
)
PRINTED = (
    " Rows from `paper` are printed there: all questions, so not to be compared with a part;"
    " `original` is the model as it came."
)


def table08(config: Config, sources: Sources) -> Table:
    """Benchmarks at short lengths, for every method that was asked."""
    rows, bold, rules = [], set(), set()
    texts = list(sources.texts(config, "benchmarks"))
    ends = last_of_base(config, [model for model, _, _ in texts])
    paper = {number: _printed(sources, base) for number, base in ends.items()}
    for number, (model, text, own) in enumerate(texts):
        bold |= {(len(rows) + row, label) for row, label in _unbeaten(own)}
        ours = [_row(config, each) for each in own]
        for block in (ours, _amounts(model, text, own), paper.get(number, [])):
            rules |= {len(rows)} if block else set()
            rows += block
    columns = [*TEXT_COLUMNS, *LABELS.values()]
    frame = pd.DataFrame(rows, columns=columns, dtype=object).fillna(NOTHING)
    caption = CAPTION + ("" if rows else NO_ROWS)
    note = NOTE + (PRINTED if any(paper.values()) else "")
    cells = [value for row in rows for name, value in row.items() if name in LABELS.values()]
    scores = [value for value in cells if "±" in value]
    guesses = sum("(chance)" in value for value in scores)
    found = f"{guesses} of {len(scores)} scores are not told from guessing." if scores else ""
    return Table("table08", caption, frame, note, found, frozenset(bold), frozenset(rules))


def _unbeaten(own: list[Evaluation]) -> Iterator[tuple[int, str]]:
    """Position and column of the highest scores, and of those that errors do not tell from them."""
    for name, label in LABELS.items():
        results = [(row, *each.results.values()) for row, each in enumerate(own)]
        scores = {row: found[name] for row, found in results if name in found}
        if len(scores) < 2:
            continue
        best = max(scores.values(), key=lambda score: score["value"])
        for row, score in scores.items():
            reach = Z * math.hypot(best["stderr"], score["stderr"])
            if best["value"] - score["value"] <= reach:
                yield row, label


def average_row(config: Config, evaluation: Evaluation, column: Column, note: str) -> Written:
    """The mean of an evaluation's benchmarks as a row, its label followed by a note."""
    (found,) = evaluation.results.values()
    errors = [each["stderr"] for each in found.values()]
    mean = 100 * fmean(each["value"] for each in found.values())
    words = _words(config, evaluation)
    words[LABEL] += note
    return Written(words, {column: f"{mean:.1f} ± {100 * math.hypot(*errors) / len(errors):.1f}"})


def _row(config: Config, evaluation: Evaluation) -> dict[str, str]:
    (results,) = evaluation.results.values()
    return _words(config, evaluation) | {
        LABELS[name]: _cell(found) for name, found in results.items()
    }


def _words(config: Config, evaluation: Evaluation) -> dict[str, str]:
    (length,) = evaluation.lengths
    tiers = evaluation.protocol["tiers"].values()
    return {
        "model": evaluation.model,
        "text": evaluation.name,
        LABEL: row_label(config.models[evaluation.model], evaluation.weights, evaluation.method),
        "source": "ours",
        FACTOR: OWN if evaluation.own_rope else span([each["attention_factor"] for each in tiers]),
        "protocol": _protocol(evaluation, length),
    }


def _cell(found: dict) -> str:
    text = f"{100 * found['value']:.1f} ± {100 * found['stderr']:.1f}"
    return text + (" (chance)" if found["at_chance"] else "")


def _protocol(evaluation: Evaluation, length: int) -> str:
    shots = [str(each["shots"]) for each in evaluation.results[length].values()]
    shots = ", ".join(dict.fromkeys(shots) if len(set(shots)) == 1 else shots)
    begins = "BOS" if evaluation.records[0]["bos"] else "no BOS"
    return (
        f"{shots}-shot, window {window_label(length)}, {begins},"
        f" harness {evaluation.protocol['harness']}"
    )


def _amounts(model: str, text: str, own: list[Evaluation]) -> list[dict[str, str]]:
    """How many questions were asked, and what guessing comes to; each said once where equal."""
    rows = {"questions (of)": {}, "guessing": {}}
    for name, label in LABELS.items():
        records = [record for each in own for record in each.records if record["benchmark"] == name]
        if records:
            asked = [f"{record['questions']} ({record['of']})" for record in records]
            guessed = [f"{100 * record['chance']:.1f}" for record in records]
            rows["questions (of)"][label] = " or ".join(dict.fromkeys(asked))
            rows["guessing"][label] = " or ".join(dict.fromkeys(guessed))
    words = {"model": model, "text": text, "source": "ours"}
    return [words | {LABEL: label} | cells for label, cells in rows.items()]


def _printed(sources: Sources, base: str) -> list[dict[str, str]]:
    shots = ", ".join(map(str, SHOTS.values()))
    same = {"dataset": "the published parts", "setting": f"{shots}-shot, at 4k"}
    numbers = [
        line | same | {"benchmark": LABELS[line["dataset"]]}
        for line in paper_numbers(sources.paper, "table8", base)
    ]
    rows = paper_rows(numbers, paper_method, lambda line: Column((), line["benchmark"]))
    return [row.words | {at.heading: text for at, text in row.cells.items()} for row in rows]
