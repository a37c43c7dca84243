"""
A table ready to be written, and its files: csv, md, html and tex with the same cells.

A table says by itself how its numbers came about: its caption gives the protocol, its rows what
was measured. What it holds is decided in `tables` and its neighbours.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from longrope.files import write_text
from longrope.report.page import page_of

LABEL, FACTOR = "weights, method", "attention factor"
TEXT_COLUMNS = ("model", "text", LABEL, "source", FACTOR, "protocol")  # aligned left
NOTHING = "–"  # a cell without a number
OWN = "its own"  # the attention factor of a model that keeps the RoPE it comes with
NO_ROWS = " This configuration evaluates nothing that would stand in this table."


@dataclass(frozen=True, slots=True)
class Table:
    """A table ready to be written: its cells are text."""

    name: str  # of the files
    caption: str  # one paragraph
    frame: pd.DataFrame
    bold: frozenset[tuple[int, str]] = frozenset()  # (row, column)
    rules: frozenset[int] = frozenset()  # rows with a line above
    left: tuple[str, ...] = TEXT_COLUMNS  # columns aligned left


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


def _markdown(table: Table) -> str:
    columns = list(table.frame.columns)
    ends = [":--" if column in table.left else "--:" for column in columns]
    lines = [" | ".join(columns), " | ".join(ends)]
    for number, row in enumerate(table.frame.itertuples(index=False)):
        cells = zip(columns, row, strict=True)
        marked = [f"**{cell}**" if (number, name) in table.bold else cell for name, cell in cells]
        lines.append(" | ".join(marked))
    return "\n".join([table.caption, "", *(f"| {line} |" for line in lines), ""])


def _latex(table: Table) -> str:
    columns = list(table.frame.columns)
    spec = "".join("l" if column in table.left else "r" for column in columns)
    body = [" & ".join(map(_escaped, columns)) + r" \\"]
    for number, row in enumerate(table.frame.itertuples(index=False)):
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
\end{{table}}
"""


def _escaped(text: str) -> str:
    for plain, tex in (("%", r"\%"), ("&", r"\&"), ("_", r"\_"), ("–", "--"), ("`", "'")):
        text = text.replace(plain, tex)
    text = re.sub(r">10\^(\d+)", r"$>10^{\1}$", text)
    return re.sub(r"(?<!\$)[<>]", r"$\g<0>$", text)
