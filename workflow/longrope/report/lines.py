"""
Tables of perplexities: lines of cells, each cell one evaluation at one length.

Lines of one group are compared with each other, column by column (or each line within itself).
Bold is the lowest, and whatever the paired comparison on the same tokens does not tell from it.
Columns stand in the order of what they mean, the paper's among ours.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pandas as pd

from longrope.config import Config
from longrope.errors import UserError
from longrope.report.load import Evaluation
from longrope.report.paper import last_of_base
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
from longrope.statistics import Outcome, compare
from longrope.windows import window_label

Cell = tuple[Evaluation, int]  # at which of its lengths
BLOWN_UP = 1000  # a perplexity from which only the power of ten is printed
PERPLEXITY = (
    "Perplexity is exp(mean loss) over all scored tokens of held-out documents, without a cache;"
    " the last row of a group says how many windows of how many documents were scored (joined: made"
    " of several). Bold: the lowest{among}, and everything that the paired comparison on the same"
    " tokens (95%, Student's t over documents) does not tell from it; with one document, the lowest"
    " alone. The attention factor multiplies cos and sin; a range where it depends on the length."
)
KINDS = ("untuned", "tuned")
TOLD = {  # of two rows, the first of which is lower
    "win": "told apart",
    "tie": "not told apart",
    "loss": "not told apart",
    "undecided": "one document, so not compared",
}
PRINTED = (
    " Rows from `paper` are printed there: other data, not to be compared with ours. They have its"
    " names: `original` is the model as it came, `LongRoPE-2048k` one extended to 2048k, `tuned at`"
    " the window of its fine-tuning."
)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of our own."""

    label: str
    cells: dict[Column, Cell]

    def put(self, column: Column, evaluation: Evaluation, length: int) -> None:
        """Fill a cell; UserError that names both if another evaluation has it."""
        if column in self.cells:
            first, second = (
                f"results/{each.model}/{each.weights}/evaluation/{each.name}/{each.method}.json"
                for each in (self.cells[column][0], evaluation)
            )
            raise UserError(
                f"{first} and {second} are both {self.label!r}, {column.heading!r}: show one of"
                " them in this table (shown_in), or leave one out"
            )
        self.cells[column] = evaluation, length


@dataclass(frozen=True, slots=True)
class Group:
    """Lines of one model on one text."""

    model: str
    text: str  # name of the evaluation
    blocks: list[list[Line]]  # lines that are compared with each other
    written: list[Written] = field(default_factory=list)  # rows below, not compared

    @property
    def lines(self) -> list[Line]:
        """Those of all blocks that have a cell."""
        return [line for block in self.blocks for line in block if line.cells]


def perplexity_table(
    name: str,
    caption: str,
    config: Config,
    groups: list[Group],
    printed: Callable[[str], list[Written]],
    within_lines: bool = False,
) -> Table:
    """A table of groups, and of the paper's rows that `printed` gives for one of its models.

    `within_lines`: bold compares the cells of a line.
    """
    ends = last_of_base(config, [group.model for group in groups])
    paper = {number: printed(base) for number, base in ends.items()}
    columns = _columns(groups, [row for rows in paper.values() for row in rows])
    rows, bold, rules = [], set(), set()
    for number, group in enumerate(groups):
        for block in group.blocks:
            lines = [line for line in block if line.cells]
            rules |= {len(rows)} if lines else set()
            for line in lines:
                for column, cell in line.cells.items():
                    others = [each.cells[column] for each in lines if column in each.cells]
                    if _unbeaten(cell, list(line.cells.values()) if within_lines else others):
                        bold.add((len(rows), column.heading))
                rows.append(_row(group, line))
        if group.lines:
            rules.add(len(rows))
            rows.append(_amounts(group, columns))
        for below in (group.written, paper.get(number)):
            rules |= {len(rows)} if below else set()
            rows += [row.words | _headed(row.cells) for row in below or []]
    among = " of a line" if within_lines else " of a column among tuned and among untuned rows"
    note = PERPLEXITY.format(among=among) + (PRINTED if any(paper.values()) else "")
    caption += "" if any(group.lines or group.written for group in groups) else NO_ROWS
    found = " ".join(_said(group, columns, within_lines) for group in groups if group.lines)
    headings = [*TEXT_COLUMNS, *(column.heading for column in columns)]
    frame = pd.DataFrame(rows, columns=headings, dtype=object).fillna(NOTHING)
    return Table(name, caption, frame, note, found, frozenset(bold), frozenset(rules))


def _columns(groups: list[Group], printed: list[Written]) -> list[Column]:
    """All columns of a table, in the order of their places."""
    rows = [line for group in groups for line in (*group.lines, *group.written)]
    return sorted({column for row in (*rows, *printed) for column in row.cells})


def _headed(cells: dict[Column, str]) -> dict[str, str]:
    return {column.heading: text for column, text in cells.items()}


def _said(group: Group, columns: list[Column], within_lines: bool) -> str:
    """What the lines of a group show, in words: who is lowest where."""
    if within_lines:
        parts = [_lowest(line) for line in group.lines if len(line.cells) > 1]
    else:
        parts = [part for block in group.blocks if (part := _ranking(block, columns))]
        if len(parts) == 2:  # as the blocks of a table by length are
            parts = [f"{kind}, {part}" for kind, part in zip(KINDS, parts, strict=True)]
    return f"{group.model}, {group.text}: {'; '.join(parts)}." if parts else ""


def _lowest(line: Line) -> str:
    """Where a line is lowest, and whether that is told from where it begins."""
    first = next(iter(line.cells))
    best = min(line.cells, key=lambda at: perplexity_of(line.cells[at]))
    told = TOLD[_beats(line.cells[best], line.cells[first])]
    values = f"{_value(line, best)}; {first.heading}: {_value(line, first)}, {told}"
    where = f"{best.heading} ({values})" if best != first else first.heading
    return f"{line.label} is lowest at {where}"


def _ranking(block: list[Line], columns: list[Column]) -> str:
    """The two lowest lines of a block in the last column that compares any; empty if none does."""
    for column in reversed(columns):
        lines = [line for line in block if column in line.cells]
        if len(lines) > 1:
            first, second, *_ = sorted(lines, key=lambda line: perplexity_of(line.cells[column]))
            told = TOLD[_beats(first.cells[column], second.cells[column])]
            return (
                f"at {column.heading} the lowest is {first.label} ({_value(first, column)}), then"
                f" {second.label} ({_value(second, column)}, {told})"
            )
    return ""


def _value(line: Line, column: Column) -> str:
    return number(perplexity_of(line.cells[column]))


def perplexity_of(cell: Cell) -> float:
    """Over all scored tokens."""
    evaluation, length = cell
    return evaluation.results[length]["perplexity"]


def attention_of(cells: Iterable[Cell]) -> str:
    """What multiplies cos and sin in some cells: `1.07`, or `1.07 to 1.21`."""
    if any(each.own_rope for each, _ in cells):
        return OWN
    return span([each.factors[length]["attention_factor"] for each, length in cells])


def number(value: float) -> str:
    """A perplexity as people print it; from `BLOWN_UP` on, how many digits it has: `>10^3`."""
    if value >= BLOWN_UP:
        return f">10^{len(str(int(value))) - 1}" if value < 1e300 else ">10^300"
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _row(group: Group, line: Line) -> dict[str, str]:
    cells = list(line.cells.values())
    return {
        "model": group.model,
        "text": group.text,
        LABEL: line.label,
        "source": "ours",
        FACTOR: attention_of(cells),
        "protocol": "; ".join(dict.fromkeys(protocol_of(each) for each, _ in cells)),
        **_headed({column: number(perplexity_of(cell)) for column, cell in line.cells.items()}),
    }


def _amounts(group: Group, columns: Iterable[Column]) -> dict[str, str]:
    """How much each column scored; lines that scored different amounts are seen to."""
    row = {"model": group.model, "text": group.text, LABEL: "windows (of documents) scored"}
    for column in columns:
        texts = []
        for line in group.lines:
            if column in line.cells:
                evaluation, length = line.cells[column]
                found = evaluation.results[length]
                joined = f", {found['joined']} joined" if found["joined"] else ""
                texts.append(f"{found['windows']} ({found['documents']}{joined})")
        if texts:
            row[column.heading] = " or ".join(dict.fromkeys(texts))
    return row | {"source": "ours"}


def _unbeaten(cell: Cell, rivals: list[Cell]) -> bool:
    """Whether the best of the rivals is this one or is not told apart from it."""
    if len(rivals) < 2:
        return False
    best = min(rivals, key=perplexity_of)
    return cell == best or _beats(best, cell) == "tie"


def _beats(best: Cell, cell: Cell) -> Outcome:
    """What the paired comparison says of a lower and a higher one, if their tokens are the same."""
    (lower, length), (higher, other) = best, cell
    if length != other:
        return "undecided"
    if lower.runs_as(higher, length):
        return "tie"
    return compare(lower.at(length), higher.at(length), length).outcome


def protocol_of(evaluation: Evaluation) -> str:
    """How an evaluation's windows lie; where one is alone in its document it does not slide."""
    if evaluation.protocol["mode"] == "truncate":
        return "one window at the start"
    stride, lengths = evaluation.protocol["stride"], evaluation.lengths
    slid = [
        length
        for length in lengths
        if stride != "length" and stride < length
        if any(len(record["windows"]) > 1 for record in evaluation.at(length))
    ]
    if not slid:
        return "non-overlapping windows"
    where = "" if slid == lengths else f" (at {', '.join(map(window_label, slid))})"
    return f"sliding window, stride {window_label(stride)}{where}"
