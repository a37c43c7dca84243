"""
Table 8 of the paper, benchmarks of short questions, and RULER's needles for the table of passkeys.
"""

import pandas as pd

from longrope.config import Config
from longrope.config.evaluation import SHOTS
from longrope.evaluate.harness import BENCHMARKS
from longrope.report.lines import attention_of
from longrope.report.load import (
    Evaluation,
    drills,
    paper_method,
    paper_numbers,
    paper_rows,
    row_label,
)
from longrope.report.sources import Sources
from longrope.report.table import (
    FACTOR,
    LABEL,
    NO_ROWS,
    NOTHING,
    OWN,
    TEXT_COLUMNS,
    Table,
    share,
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
    " own whole length, none is cut. `questions (of)`: how many were asked, of how many in the"
    f" published part. `(chance)`: within {Z:.2f} standard errors of guessing. MC2 adds up"
    " likelihoods, which are higher for short answers: there a model that knows nothing need not be"
    " at chance."
)
PRINTED = " Rows from `paper` are printed there: all questions, so not to be compared with a part."


def table08(config: Config, sources: Sources) -> Table:
    """Benchmarks at short lengths, for every method that was asked."""
    rows, rules, told = [], set(), False
    for model, text, own in sources.texts(config, "benchmarks"):
        printed = _printed(sources, model)
        for block in ([_row(config, each) for each in own], _amounts(model, text, own), printed):
            rules |= {len(rows)} if block else set()
            rows += block
        told = told or bool(printed)
    columns = [*TEXT_COLUMNS, *LABELS.values()]
    frame = pd.DataFrame(rows, columns=columns, dtype=object).fillna(NOTHING)
    caption = CAPTION + ("" if rows else NO_ROWS)
    note = NOTE + (PRINTED if told else "")
    cells = [value for row in rows for name, value in row.items() if name in LABELS.values()]
    scores = [value for value in cells if "±" in value]
    guesses = sum("(chance)" in value for value in scores)
    found = f"{guesses} of {len(scores)} scores are not told from guessing." if scores else ""
    return Table("table08", caption, frame, note, found, rules=frozenset(rules))


def _row(config: Config, evaluation: Evaluation) -> dict[str, str]:
    (length,) = evaluation.lengths
    tiers = evaluation.protocol["tiers"].values()
    return {
        "model": evaluation.model,
        "text": evaluation.name,
        LABEL: row_label(config.models[evaluation.model], evaluation.weights, evaluation.method),
        "source": "ours",
        FACTOR: OWN if evaluation.own_rope else span([each["attention_factor"] for each in tiers]),
        "protocol": _protocol(evaluation, length),
        **{LABELS[name]: _cell(found) for name, found in evaluation.results[length].items()},
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


def _printed(sources: Sources, model: str) -> list[dict[str, str]]:
    shots = ", ".join(map(str, SHOTS.values()))
    same = {"dataset": "the published parts", "setting": f"{shots}-shot, at 4k"}
    numbers = [
        line | same | {"benchmark": LABELS[line["dataset"]]}
        for line in paper_numbers(sources.paper, "table8", model)
    ]
    return [
        {"model": model, LABEL: row.label, "source": "paper", "protocol": row.protocol, **row.cells}
        for row in paper_rows(numbers, paper_method, lambda line: line["benchmark"])
    ]


def needle_rows(config: Config, evaluation: Evaluation, tuned_on: str) -> list[dict[str, str]]:
    """A row for each of RULER's needles that an evaluation tests, for the table of passkeys."""
    settings = config.models[evaluation.model]
    rows = []
    for needle in evaluation.protocol["needles"]:
        found = {length: each[needle] for length, each in evaluation.results.items()}
        rows.append(
            {
                "model": evaluation.model,
                "text": evaluation.name,
                LABEL: row_label(settings, evaluation.weights, evaluation.method),
                "source": "ours",
                FACTOR: attention_of([(evaluation, length) for length in evaluation.lengths]),
                "protocol": f"RULER {needle}, essays: {evaluation.protocol['haystack']}",
                tuned_on: drills(settings, evaluation.weights),
                **{window_label(length): share(each) for length, each in sorted(found.items())},
            }
        )
    return rows
