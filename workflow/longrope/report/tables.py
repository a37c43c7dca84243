"""
The paper's tables for whatever was configured.

`TABLES` names them; each is a function of the configuration and of what was measured for it. The
search has tables of its own (`searches`, `fitness`), fine-tuning has `tunings`; Tables 1, 2, 3, 11
and 12 are in `ablations`, Table 8 in `benchmarks`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.errors import unknown_name
from longrope.report import ablations
from longrope.report.benchmarks import needle_rows, table08
from longrope.report.fitness import fitness_table
from longrope.report.lines import Group, Line, attention_of, perplexity_table
from longrope.report.load import (
    Evaluation,
    accuracies,
    chosen,
    drills,
    of_task,
    paper_length,
    paper_method,
    paper_numbers,
    paper_rows,
    read_evaluations,
    row_label,
)
from longrope.report.searches import searches_table
from longrope.report.sources import Sources
from longrope.report.table import (
    FACTOR,
    LABEL,
    NO_ROWS,
    NOTHING,
    Table,
    share,
    write_table,
)
from longrope.report.trace import read_traces
from longrope.report.trainings import read_costs
from longrope.report.tunings import tunings_table
from longrope.windows import window_label

TUNED_ON = "other than text in tuning"
PASSKEY = (
    "Per cent of passkeys found, with the 95% Wilson interval: a key at a random depth of the"
    " paper's filler text, prompt and answer together of exactly the length; greedy decoding; only"
    " the key itself counts. Every method reads the same prompts. `other than text in tuning` is"
    " the share of passkey documents (digits-K, word) and other drills in the data that the"
    " weights were tuned on, tuning after tuning; a model's card tells of its pre-training."
)


RULER = (
    " Rows of RULER are its needle tasks by lm-evaluation-harness: a word's number or uuid, alone"
    " (single) or among other keys (multikey), found if it stands anywhere in 128 new tokens, the"
    " prompt and these together at most the length; where RULER has essays there are the texts"
    " named. They are other questions than the passkey's: compare them within a block."
)


def make_table(
    name: str,
    config: Config,
    records: list[Path],
    traces: list[Path],
    paper: Path,
    out: Path,
    *,
    trainings: Sequence[Path] = (),
) -> None:
    """Write one table as `out` with the endings .csv, .md, .html and .tex."""
    if name not in TABLES:
        raise unknown_name("table", name, TABLES)
    sources = Sources(
        read_evaluations(config, records),
        read_traces(config, traces),
        read_costs(config, trainings),
        paper,
    )
    write_table(TABLES[name](config, sources), out)


def table05(config: Config, sources: Sources) -> Table:
    """Every method of every checkpoint by length: the evaluations that stand for Proof-pile."""
    return _every_row("table05", "Table 5 (Proof-pile)", config, sources)


def table06(config: Config, sources: Sources) -> Table:
    """The same of the evaluations that stand for Books3."""
    return _every_row("table06", "Table 6 (Books3)", config, sources)


def table07(config: Config, sources: Sources) -> Table:
    """The same of the evaluations that stand for PG19."""
    return _every_row("table07", "Table 7 (PG19)", config, sources)


def _every_row(name: str, counterpart: str, config: Config, sources: Sources) -> Table:
    groups = []
    for model, text, own in sources.texts(config):
        blocks = [chosen(own, model, {BASE}), chosen(own, model, config.models[model].tunings)]
        groups.append((model, text, blocks, _as_printed(sources, name, model)))
    caption = (
        "Perplexity by context length, every evaluated method and checkpoint: the counterpart of"
        f" the paper's {counterpart}."
    )
    return _by_length(name, caption, config, groups)


def table09(config: Config, sources: Sources) -> Table:
    """The second search against closed forms, where the weights were never tuned."""
    groups = []
    for model, text, own in sources.texts(config):
        if extension := config.models[model].extension:
            methods = {each.method for each in own} - {"longest"}
            block = chosen(own, model, {extension.weights}, methods)
            printed = _as_printed(sources, "table9", model)
            groups.append((model, text, [block], printed, set(extension.search)))
    caption = (
        "Beyond the tuned window without further tuning: searched again (extended) against closed"
        " forms, from the original window or multiplied onto the tuned factors. The counterpart of"
        " the paper's Table 9."
    )
    return _by_length("table09", caption, config, groups)


def table10(config: Config, sources: Sources) -> Table:
    """Short windows of the extended model, before and after recovery."""
    groups = []
    for model, text, own in sources.texts(config):
        if extension := config.models[model].extension:
            ours = chosen(own, model, {extension.weights}, {"longest", "extended", "tuned"})
            blocks = [ours, chosen(own, model, {BASE}, {"none"})]
            printed = _as_printed(sources, "table10", model)
            groups.append((model, text, blocks, printed, set(extension.recovery)))
    caption = (
        "Short windows of the extended model: with the factors of its longest window at every"
        " length (without recovery), with its recovered factors, and with the factors that it was"
        " tuned with; last the pre-trained model, as it was. The counterpart of the perplexities"
        " in the paper's Table 10."
    )
    notes = {"longest": ", without recovery", "extended": ", with recovery"}
    return _by_length("table10", caption, config, groups, notes)


def _as_printed(sources: Sources, table: str, model: str) -> list:
    numbers = paper_numbers(sources.paper, table.replace("table0", "table"), model)
    perplexities = [line for line in numbers if line["metric"] == "perplexity"]
    return paper_rows(perplexities, paper_method, paper_length)


def _by_length(
    name: str, caption: str, config: Config, parts: list[tuple], notes: dict[str, str] | None = None
) -> Table:
    """One column a length; a part is model, text, blocks of evaluations, printed rows, lengths."""
    groups, lengths = [], set()
    for model, text, blocks, printed, *only in parts:
        settings, kept = config.models[model], only[0] if only else None
        made = []
        for block in blocks:
            made.append([])
            for each in block:
                here = [length for length in each.lengths if kept is None or length in kept]
                lengths |= set(here)
                label = row_label(settings, each.weights, each.method)
                label += (notes or {}).get(each.method, "")
                cells = {window_label(length): (each, length) for length in here}
                made[-1].append(Line(label, cells))
        groups.append(Group(model, text, made, printed))
    return perplexity_table(name, caption, [window_label(each) for each in sorted(lengths)], groups)


def passkey_table(config: Config, sources: Sources) -> Table:
    """Passkeys found, by length; the paper shows its own in Figure 4 only, without numbers."""
    return _retrieved("passkey", config, sources)


def retrieval_table(config: Config, sources: Sources) -> Table:
    """The same and RULER's needles: a model may pass the one and fail the other."""
    return _retrieved("retrieval", config, sources)


def _retrieved(name: str, config: Config, sources: Sources) -> Table:
    rows, rules, lengths = [], set(), set()
    for model, text, own in sources.texts(config, "passkey"):
        settings, frame = config.models[model], accuracies(own)
        lengths |= set(frame.length)
        rules.add(len(rows))
        rows += [_passkey_row(settings, each) for each in own]
        rules.add(len(rows))
        amounts = frame.groupby("length").prompts.unique()
        row = {"model": model, "text": text, LABEL: "prompts", "source": "ours"}
        rows.append(
            row | {window_label(n): " or ".join(map(str, each)) for n, each in amounts.items()}
        )
    for _, _, own in sources.texts(config, "ruler"):
        lengths |= {length for each in own for length in each.lengths}
        rules.add(len(rows))
        rows += [row for each in own for row in needle_rows(config, each, TUNED_ON)]
        rows.append(_needle_prompts(own))
    columns = ["model", "text", LABEL, "source", FACTOR, "protocol", TUNED_ON]
    columns += [window_label(length) for length in sorted(lengths)]
    frame = pd.DataFrame(rows, columns=columns, dtype=object).fillna(NOTHING)
    caption = "Passkey retrieval by length: the counterpart of the paper's Figure 4."
    caption += "" if rows else NO_ROWS
    note = PASSKEY + (RULER if of_task(sources.evaluations, "ruler") else "")
    found = " ".join(
        sentence
        for model, _, own in sources.texts(config, "passkey")
        if (sentence := _best_finder(config.models[model], own))
    )
    left = tuple(columns[:7])
    return Table(name, caption, frame, note, found, rules=frozenset(rules), left=left)


def _best_finder(settings: ModelSettings, own: list[Evaluation]) -> str:
    """Who finds most at the longest length, and the longest at which somebody finds 90%."""
    if not own:
        return ""
    frame = accuracies(own)
    reach = frame[frame.accuracy >= 0.9].length
    longest = frame[frame.length == frame.length.max()]
    best = longest.loc[longest.accuracy.idxmax()]
    far = f"90% are found up to {window_label(int(reach.max()))}" if len(reach) else "90% nowhere"
    label = row_label(settings, best.weights, best.method)
    return (
        f"{best.model}, {best.evaluation}: {far}; at {window_label(int(best.length))} most by"
        f" {label}, {best.found} of {best.prompts}."
    )


def _needle_prompts(own: list[Evaluation]) -> dict[str, str]:
    amounts: dict[str, list[str]] = {}
    for each in own:
        for record in each.records:
            amounts.setdefault(window_label(record["length"]), []).append(str(record["prompts"]))
    words = {"model": own[0].model, "text": own[0].name, LABEL: "prompts of each", "source": "ours"}
    return words | {label: " or ".join(dict.fromkeys(each)) for label, each in amounts.items()}


def _passkey_row(settings: ModelSettings, evaluation: Evaluation) -> dict[str, str]:
    found = evaluation.results
    return {
        "model": evaluation.model,
        "text": evaluation.name,
        LABEL: row_label(settings, evaluation.weights, evaluation.method),
        "source": "ours",
        FACTOR: attention_of([(evaluation, length) for length in evaluation.lengths]),
        "protocol": f"key {evaluation.protocol['key']}, {evaluation.protocol['decoding']}",
        TUNED_ON: drills(settings, evaluation.weights),
        **{window_label(length): share(each) for length, each in sorted(found.items())},
    }


TABLES: dict[str, Callable[[Config, Sources], Table]] = {
    "table01": ablations.table01,
    "table02": ablations.table02,
    "table03": ablations.table03,
    "table05": table05,
    "table06": table06,
    "table07": table07,
    "table08": table08,
    "table09": table09,
    "table10": table10,
    "table11": ablations.table11,
    "table12": ablations.table12,
    "passkey": passkey_table,
    "retrieval": retrieval_table,
    "searches": searches_table,
    "fitness": fitness_table,
    "tunings": tunings_table,
}
