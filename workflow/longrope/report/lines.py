"""
Tables of perplexities: lines of cells, each cell one evaluation at one length.

Lines of one group are compared with each other, column by column (or each line within itself).
Bold is the lowest, and whatever the paired comparison on the same tokens does not tell from it.
The paper's numbers stand under a group whose model the paper has, and are never weighed against
ours: other data, other tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from longrope.report.load import Evaluation, PaperRow
from longrope.report.table import FACTOR, LABEL, NO_ROWS, NOTHING, OWN, TEXT_COLUMNS, Table, span
from longrope.statistics import Outcome, compare
from longrope.windows import window_label

Cell = tuple[Evaluation, int]  # at which of its lengths
PERPLEXITY = (
    "Perplexity is exp(mean loss) over all scored tokens of held-out documents, without a cache;"
    " the last row of a group says how many windows of how many documents were scored (joined: made"
    " of several). Bold: the lowest{among}, and everything that the paired comparison on the same"
    " tokens (95%, Student's t over documents) does not tell from it; with one document, the lowest"
    " alone. The attention factor multiplies cos and sin; a range where it depends on the length."
)
TOLD = {  # of two rows, the first of which is lower
    "win": "told apart",
    "tie": "not told apart",
    "loss": "not told apart",
    "undecided": "one document, so not compared",
}
PRINTED = " Rows from `paper` are printed there: other data, not to be compared with ours."


@dataclass(frozen=True, slots=True)
class Line:
    """One row of our own."""

    label: str
    cells: dict[str, Cell]  # by column


@dataclass(frozen=True, slots=True)
class Group:
    """Lines of one model on one text, and what the paper printed for that model."""

    model: str
    text: str  # name of the evaluation
    blocks: list[list[Line]]  # lines that are compared with each other
    printed: list[PaperRow] = field(default_factory=list)

    @property
    def lines(self) -> list[Line]:
        """Those of all blocks that have a cell."""
        return [line for block in self.blocks for line in block if line.cells]


def perplexity_table(
    name: str, caption: str, columns: list[str], groups: list[Group], within_lines: bool = False
) -> Table:
    """A table of these columns; `within_lines`: bold compares the cells of a line."""
    drawn = list(columns)
    rows, bold, rules = [], set(), set()
    for group in groups:
        for block in group.blocks:
            lines = [line for line in block if line.cells]
            rules |= {len(rows)} if lines else set()
            for line in lines:
                for column, cell in line.cells.items():
                    others = [each.cells[column] for each in lines if column in each.cells]
                    if _unbeaten(cell, list(line.cells.values()) if within_lines else others):
                        bold.add((len(rows), column))
                rows.append(_row(group, line))
        if group.lines:
            rules.add(len(rows))
            rows.append(_amounts(group, columns))
        rules |= {len(rows)} if group.printed else set()
        for each in group.printed:
            words = {"model": group.model, LABEL: each.label, "source": "paper"}
            rows.append(words | {"protocol": each.protocol, **each.cells})
    among = " of a line" if within_lines else " of a column among tuned and among untuned rows"
    note = PERPLEXITY.format(among=among)
    note += PRINTED if any(group.printed for group in groups) else ""
    caption += "" if any(group.lines for group in groups) else NO_ROWS
    found = " ".join(_said(group, drawn, within_lines) for group in groups if group.lines)
    extra = [each for row in rows for each in row if each not in (*TEXT_COLUMNS, *columns)]
    columns = [*columns, *dict.fromkeys(extra)]  # lengths of the paper that we do not have
    frame = pd.DataFrame(rows, columns=[*TEXT_COLUMNS, *columns], dtype=object).fillna(NOTHING)
    return Table(name, caption, frame, note, found, frozenset(bold), frozenset(rules))


def _said(group: Group, columns: list[str], within_lines: bool) -> str:
    """What the lines of a group show, in words: who is lowest where."""
    if within_lines:
        parts = [_lowest(line) for line in group.lines if len(line.cells) > 1]
    else:
        parts = [part for block in group.blocks if (part := _ranking(block, columns))]
    return f"{group.model}, {group.text}: {'; '.join(parts)}." if parts else ""


def _lowest(line: Line) -> str:
    """Where a line is lowest, and whether that is told from where it begins."""
    first = next(iter(line.cells))
    best = min(line.cells, key=lambda at: perplexity_of(line.cells[at]))
    told = TOLD[_beats(line.cells[best], line.cells[first])]
    where = f"{best} ({_written(line, best)}; {first}: {_written(line, first)}, {told})"
    return f"{line.label} is lowest at {where if best != first else first}"


def _ranking(block: list[Line], columns: list[str]) -> str:
    """The two lowest lines of a block in the last column that compares any; empty if none does."""
    for column in reversed(columns):
        lines = [line for line in block if column in line.cells]
        if len(lines) > 1:
            first, second, *_ = sorted(lines, key=lambda line: perplexity_of(line.cells[column]))
            told = TOLD[_beats(first.cells[column], second.cells[column])]
            return (
                f"at {column} the lowest is {first.label} ({_written(first, column)}), then"
                f" {second.label} ({_written(second, column)}, {told})"
            )
    return ""


def _written(line: Line, column: str) -> str:
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
    """A perplexity as people print it; from 1000 on, how many digits it has: `>10^3`."""
    if value >= 1000:
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
        "protocol": protocol_of(cells[0][0]),
        **{column: number(perplexity_of(cell)) for column, cell in line.cells.items()},
    }


def _amounts(group: Group, columns: Iterable[str]) -> dict[str, str]:
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
            row[column] = " or ".join(dict.fromkeys(texts))
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
