"""
The paper's numbers as rows of our tables: the same columns, the cells as they are printed there.

They stand once for each of the paper's two models, below the last rows of that model or of a
checkpoint made of it, and are never weighed against ours: other data, other tokens.
"""

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from longrope.config import Config
from longrope.errors import UserError
from longrope.paper_models import base_of
from longrope.report.labels import printed_label
from longrope.report.table import LABEL, Column, Written, length_column
from longrope.windows import window_label

COLUMNS = (  # of resources/paper/tables.csv, as far as they are used
    "table", "base", "method", "fine_tune_window", "dataset", "setting", "length", "metric",
    "bound", "value",
)  # fmt: skip
Number = dict[str, str]  # one line of that file, and `printed`: the number as it is printed


def paper_numbers(path: Path, table: str, base: str) -> list[Number]:
    """The numbers of a paper's table for one of its models, one a line."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [each for each in COLUMNS if each not in (reader.fieldnames or ())]:
                raise UserError(
                    f"{path}: no column {', '.join(missing)}; the paper's numbers have"
                    f" {', '.join(COLUMNS)}"
                )
            lines = [
                line | {"printed": _printed(line, f"{path}, line {reader.line_num}")}
                for line in reader
                if (line["table"], line["base"]) == (table, base)
            ]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the paper's numbers are expected there") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable csv file ({error})") from None
    return lines


def _printed(line: Number, place: str) -> str:
    """As the paper prints it; a bound is a power of ten there."""
    try:
        value, _ = float(line["value"]), int(line["length"])
        return f"{line['bound']}10^{round(math.log10(value))}" if line["bound"] else line["value"]
    except (TypeError, ValueError):
        raise UserError(f"{place}: length and value must be numbers") from None


def paper_rows(
    numbers: Iterable[Number],
    label: Callable[[Number], str],
    column: Callable[[Number], Column],
    one_row: bool = False,
) -> list[Written]:
    """Numbers as rows: those of one label and data set in one row, with `one_row` of one label."""
    rows: dict[tuple[str, str], Written] = {}
    said: dict[tuple[str, str], dict[str, dict[str, None]]] = {}  # data sets and their settings
    for line in numbers:
        key = label(line), "" if one_row else line["dataset"]
        words = {"model": line["base"], LABEL: label(line), "source": "paper"}
        row = rows.setdefault(key, Written(words, {}))
        if column(line) in row.cells:
            raise UserError(
                f"the paper's {line['table']} has two numbers for {label(line)!r},"
                f" {column(line).heading!r}: {row.cells[column(line)]} and {line['printed']}"
            )
        row.cells[column(line)] = line["printed"]
        said.setdefault(key, {}).setdefault(line["dataset"], {})[line["setting"]] = None
    for key, row in rows.items():
        row.words["protocol"] = "; ".join(
            f"{dataset}: {', '.join(settings)}" for dataset, settings in said[key].items()
        )
    return list(rows.values())


def last_of_base(config: Config, models: Iterable[str]) -> dict[int, str]:
    """Where rows of one of the paper's models end, among rows of some models: position -> base."""
    ends = {base_of(config.models[model]): number for number, model in enumerate(models)}
    return {number: base for base, number in ends.items() if base}


def paper_method(line: Number) -> str:
    """What a line's method is called, and what it was tuned at: `YaRN-128k, tuned at 128k`."""
    tuned = line["fine_tune_window"]
    return printed_label(line["method"]) + (
        f", tuned at {window_label(int(tuned))}" if tuned else ""
    )


def paper_length(line: Number) -> Column:
    """The column of a line's length."""
    return length_column(int(line["length"]))
