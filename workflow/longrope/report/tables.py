"""
The paper's tables for whatever was configured.

`TABLES` names them; each is a function of the configuration and of what was measured for it. The
search has tables of its own (`searches`, `fitness`), fine-tuning has `tunings`; Tables 1, 2, 3, 11
and 12 are in `ablations`, Table 8 in `benchmarks`, passkeys and needles in `retrieval`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from longrope.config import Config
from longrope.config.base import BASE
from longrope.errors import unknown_name
from longrope.report import ablations
from longrope.report.benchmarks import average_row, table08
from longrope.report.fitness import fitness_table
from longrope.report.labels import row_label
from longrope.report.lines import Group, Line, perplexity_table
from longrope.report.load import Evaluation, chosen, read_evaluations
from longrope.report.paper import Number, paper_length, paper_method, paper_numbers, paper_rows
from longrope.report.retrieval import passkey_table, retrieval_table
from longrope.report.searches import searches_table
from longrope.report.sources import Sources
from longrope.report.table import Column, Table, Written, length_column, write_table
from longrope.report.trace import read_traces
from longrope.report.trainings import read_costs
from longrope.report.tunings import tunings_table

RECOVERY = {"longest": ", without recovery", "extended": ", with recovery"}
AVERAGE = Column((math.inf,), "average of benchmarks")
AVERAGED = (
    " `average of benchmarks`: the mean of those that Table 8 has one by one, per cent with the"
    " standard error; not part of what is bold."
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
        groups.append(_by_length(config, model, text, blocks))
    caption = (
        "Perplexity by context length, every evaluated method and checkpoint: the counterpart of"
        f" the paper's {counterpart}."
    )

    def printed(base: str) -> list[Written]:
        numbers = paper_numbers(sources.paper, name.replace("table0", "table"), base)
        return paper_rows(numbers, paper_method, paper_length)

    return perplexity_table(name, caption, config, groups, printed)


def table09(config: Config, sources: Sources) -> Table:
    """The second search against closed forms, where the weights were never tuned."""
    groups = []
    for model, text, own in sources.texts(config):
        if extension := config.models[model].extension:
            methods = {each.method for each in own} - {"longest"}
            block = chosen(own, model, {extension.weights}, methods)
            groups.append(_by_length(config, model, text, [block], set(extension.search)))
    caption = (
        "Beyond the tuned window without further tuning: searched again (extended) against closed"
        " forms, from the original window or multiplied onto the tuned factors. The counterpart of"
        " the paper's Table 9."
    )

    def printed(base: str) -> list[Written]:
        return paper_rows(paper_numbers(sources.paper, "table9", base), paper_method, paper_length)

    return perplexity_table("table09", caption, config, groups, printed)


def table10(config: Config, sources: Sources) -> Table:
    """Short windows of the extended model, before and after recovery."""
    groups = []
    for model, settings in config.models.items():
        if not (extension := settings.extension):
            continue
        methods = {*RECOVERY, "tuned"}
        for name, text, own in sources.texts(config):
            if name == model:
                ours = chosen(own, model, {extension.weights}, methods)
                blocks, windows = (
                    [ours, chosen(own, model, {BASE}, {"none"})],
                    {*extension.recovery},
                )
                groups.append(_by_length(config, model, text, blocks, windows, RECOVERY))
        for name, text, own in sources.texts(config, "benchmarks"):
            if name == model and (asked := chosen(own, model, {extension.weights}, methods)):
                averages = [average_row(config, each, AVERAGE, _note(each)) for each in asked]
                groups.append(Group(model, text, [], averages))
    caption = (
        "Short windows of the extended model: with the factors of its longest window at every"
        " length (without recovery), with its recovered factors, and with the factors that it was"
        " tuned with; last the pre-trained model, as it was. The counterpart of the paper's Table"
        " 10."
    )

    def printed(base: str) -> list[Written]:
        return paper_rows(
            paper_numbers(sources.paper, "table10", base),
            lambda line: f"{paper_method(line)}, {line['setting']}",
            _recovered_column,
            one_row=True,
        )

    table = perplexity_table("table10", caption, config, groups, printed)
    return replace(table, note=table.note + AVERAGED) if AVERAGE.heading in table.frame else table


def _note(evaluation: Evaluation) -> str:
    return RECOVERY.get(evaluation.method, "")


def _recovered_column(line: Number) -> Column:
    return paper_length(line) if line["metric"] == "perplexity" else AVERAGE


def _by_length(
    config: Config,
    model: str,
    text: str,
    blocks: list[list[Evaluation]],
    only: set[int] | None = None,
    notes: dict[str, str] | None = None,
) -> Group:
    """Lines of one column a length: of all lengths, or of some only."""
    made = []
    for block in blocks:
        made.append([])
        for each in block:
            label = row_label(config.models[model], each.weights, each.method)
            label += (notes or {}).get(each.method, "")
            lengths = [length for length in each.lengths if only is None or length in only]
            cells = {length_column(length): (each, length) for length in lengths}
            made[-1].append(Line(label, cells))
    return Group(model, text, made)


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
