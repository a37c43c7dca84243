"""
A table ready to be written, and its files: csv, md, html and tex with the same cells.

A table says by itself how its numbers came about: its rows what was measured, its note by which
protocol. For readers a column of words that is the same in all rows becomes a line above the table;
the csv has every column. What a table holds is decided in `tables` and its neighbours.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from longrope.files import write_text
from longrope.report.contents import HERE
from longrope.report.page import page_of
from longrope.windows import window_label

LABEL, FACTOR = "weights, method", "attention factor"
TEXT_COLUMNS = ("model", "text", LABEL, "source", FACTOR, "protocol")  # aligned left
FOLDED = {"model", "text", "source", "protocol"}  # those not shown where all rows say the same
NOTHING = "–"  # a cell without a number
OWN = "its own"  # the attention factor of a model that keeps the RoPE it comes with
NO_ROWS = " This configuration evaluates nothing that would stand in this table."


class Column(NamedTuple):
    """A column of numbers; they stand in the order of their places."""

    place: tuple
    heading: str


@dataclass(frozen=True, slots=True)
class Written:
    """A row whose cells are text already."""

    words: dict[str, str]  # of TEXT_COLUMNS
    cells: dict[Column, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table ready to be written: its cells are text."""

    name: str  # of the files
    caption: str  # what it shows, in a sentence or two
    frame: pd.DataFrame
    note: str = ""  # how its numbers came about, one paragraph
    found: str = ""  # what it shows here, in a sentence or two
    bold: frozenset[tuple[int, str]] = frozenset()  # (row, column)
    rules: frozenset[int] = frozenset()  # rows with a line above
    left: tuple[str, ...] = TEXT_COLUMNS  # columns aligned left


def length_column(length: int) -> Column:
    """The column of a length."""
    return Column((length,), window_label(length))


def span(values: Iterable[float]) -> str:
    """`1.07`, or `1.07 to 1.21`."""
    low, high = (f"{value:.4g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def share(found: dict) -> str:
    """`98 [93, 99]`: per cent found, with the interval."""
    return "{:.0f} [{:.0f}, {:.0f}]".format(
        *(100 * found[key] for key in ("accuracy", "low", "high"))
    )


def write_table(table: Table, stem: Path) -> None:
    """Write `stem` with the endings .csv, .md, .html and .tex."""
    markdown = _markdown(table)
    write_text(stem.with_suffix(".csv"), table.frame.to_csv(index=False))
    write_text(stem.with_suffix(".md"), markdown)
    write_text(stem.with_suffix(".html"), page_of(markdown))
    write_text(stem.with_suffix(".tex"), _latex(table))


def _common(table: Table) -> dict[str, str]:
    """The columns of words that say the same in all rows, so that a reader need not see them.

    A row of amounts that says nothing does not count; a row of the paper's that does so does.
    """
    frame, common = table.frame, {}
    printed = frame.source == "paper" if "source" in frame else False
    for column in TEXT_COLUMNS:
        if column in FOLDED and column in frame:
            said = set(frame[column][printed | (frame[column] != NOTHING)])
            if len(said) == 1:
                common[column] = said.pop()
    return common


def _common_line(common: dict[str, str]) -> str:
    return f"All rows: {', '.join(f'{name} {value}' for name, value in common.items())}."


def _markdown(table: Table) -> str:
    common = _common(table)
    columns = [column for column in table.frame if column not in common]
    ends = [":--" if column in table.left else "--:" for column in columns]
    lines = [" | ".join(columns), " | ".join(ends)]
    for number, row in enumerate(table.frame[columns].itertuples(index=False)):
        cells = zip(columns, row, strict=True)
        marked = [f"**{cell}**" if (number, name) in table.bold else cell for name, cell in cells]
        lines.append(" | ".join(marked))
    parts = [table.caption, f"{HERE}{table.found}" if table.found else ""]
    parts += [_common_line(common) if common else "", "\n".join(f"| {line} |" for line in lines)]
    return "\n\n".join([*filter(None, parts), table.note]).strip() + "\n"


def _latex(table: Table) -> str:
    common = _common(table)
    columns = [column for column in table.frame if column not in common]
    note = " ".join([*([_common_line(common)] if common else []), table.note])
    spec = "".join("l" if column in table.left else "r" for column in columns)
    body = [" & ".join(map(_escaped, columns)) + r" \\"]
    for number, row in enumerate(table.frame[columns].itertuples(index=False)):
        cells = [
            rf"\textbf{{{_escaped(cell)}}}" if (number, column) in table.bold else _escaped(cell)
            for column, cell in zip(columns, row, strict=True)
        ]
        body += [r"\midrule"] if number in table.rules else []
        body.append(" & ".join(cells) + r" \\")
    lines = "\n".join(body)
    return rf"""% needs the packages booktabs and graphicx
\begin{{table}}
\centering
\caption{{{_escaped(table.caption)}}}
\label{{tab:{table.name}}}
\resizebox{{\linewidth}}{{!}}{{\begin{{tabular}}{{{spec}}}
\toprule
{lines}
\bottomrule
\end{{tabular}}}}

\smallskip
\parbox{{\linewidth}}{{\footnotesize {_escaped(note)}}}
\end{{table}}
"""


def _escaped(text: str) -> str:
    for plain, tex in (("%", r"\%"), ("&", r"\&"), ("_", r"\_"), ("–", "--"), ("`", "'")):
        text = text.replace(plain, tex)
    text = re.sub(r">10\^(\d+)", r"$>10^{\1}$", text)
    return re.sub(r"(?<!\$)[<>]", r"$\g<0>$", text)
