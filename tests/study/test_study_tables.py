"""
What the study's tables and figures must be, asserted on the results of a real run.

    snakemake --cores all study && pytest tests/study
    snakemake --cores all && pytest tests/study -m "not ablations"    # those of the default target

Every table and figure is there, no cell is empty of meaning, and every number in a table is that of
the very record that its row and column name: text, weights, method and length.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from longrope.checks import load_config
from longrope.config.base import BASE
from longrope.config.evaluation import ABLATIONS, MAIN
from longrope.report.benchmarks import LABELS
from longrope.report.labels import method_label, row_label
from longrope.windows import parse_window

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
FIGURES = [*(f"figure{name}" for name in ("1", "2", "3", "4", "5", "5c", "6")), "depths"]
WORDS = {"model", "text", "weights, method", "source", "attention factor", "protocol"}
WORDS |= {"other than text in tuning"}
COUNTS = ("windows (of documents) scored", "prompts", "questions (of)", "guessing")


def some(names: list[str]) -> list:
    """Parameters, of which those that the default target leaves out are marked."""
    return [
        pytest.param(name, marks=[pytest.mark.ablations] * (name in ABLATIONS)) for name in names
    ]


def table_of(name: str) -> pd.DataFrame:
    path = RESULTS / f"tables/{name}.csv"
    assert path.exists(), "run the study first: the head of this file says how"
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of our own that hold measurements, not amounts."""
    own = table[table.source == "ours"]
    return own[~own["weights, method"].str.startswith(COUNTS)]


def cells(table: pd.DataFrame) -> Iterator[tuple[dict[str, str], str, str]]:
    """Row, column and value of every cell that holds a number."""
    for row in measured(table).to_dict("records"):
        for column, value in row.items():
            if column not in WORDS and value != "–":
                yield row, column, value


@cache
def records(task: str) -> tuple[dict, ...]:
    """Every evaluation file of a task that the study asks for; others may be left over. Those that
    only ablations show are there or not: a table of them names the record that it lacks."""
    places = [
        (asked, RESULTS / model / weights / "evaluation" / name / f"{method}.json")
        for model, settings in models().items()
        for name, asked in settings.evaluation.items()
        if asked.task == task
        for weights, methods in asked.methods.items()
        for method in methods
    ]
    files = [file for asked, file in places if set(asked.shown_in) & set(MAIN) or file.exists()]
    return tuple(json.loads(file.read_text(encoding="utf-8")) for file in files)


@cache
def models() -> dict:
    """The settings of the study's models."""
    text = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    return load_config(yaml.safe_load(text)).models


# --- whether a cell is of a record, and at which of its lengths ---------------------------------

Meant = Callable[[dict, dict, str], str | None]  # record, row, column -> length of the record


def whole_label(record: dict) -> str:
    return row_label(models()[record["model"]], record["weights"], record["method"])


def bare_label(record: dict, method: str) -> str:
    """A method's label without weights."""
    return method_label(models()[record["model"]], BASE, method)


def by_label(record: dict, row: dict, column: str) -> str | None:
    label = row["weights, method"].removesuffix(", with recovery")
    return column if label.removesuffix(", without recovery") == whole_label(record) else None


def by_only_length(record: dict, row: dict, column: str) -> str | None:
    (length,) = record["results"]
    return length if by_label(record, row, column) else None


def by_method(record: dict, row: dict, column: str) -> str | None:
    same = row["weights, method"] == bare_label(record, record["method"])
    return column if same and record["weights"] == BASE else None


def by_n_hat(record: dict, row: dict, column: str) -> str | None:
    label, _, length = row["weights, method"].rpartition(", ")
    n_hat = column.removeprefix("n_hat = ")
    form = record["method"].removesuffix(f"-n{n_hat}")
    plain = (n_hat == "0") == (form == record["method"])
    return length if plain and label == bare_label(record, form) else None


def before_and_after(record: dict, row: dict, column: str) -> str | None:
    length, _, state = column.partition(", ")
    label, _, weights = row["weights, method"].partition(": ")
    if state == "untuned":
        same = record["weights"] == BASE and label == bare_label(record, record["method"])
        return length if same else None
    tuning = models()[record["model"]].tunings.get(record["weights"])
    if not tuning or record["method"] != "tuned" or tuning.window != parse_window(length):
        return None
    same = label == bare_label(record, tuning.method) and weights in ("", record["weights"])
    return length if same else None


def by_search(record: dict, row: dict, column: str) -> str | None:
    length, _, kind = column.partition(", ")
    method = record["method"].removesuffix("-on-tuned").replace("extended", "search")
    same = row["weights, method"] == bare_label(record, method).partition(" (from")[0]
    second = kind.startswith("second interpolation")
    return length if same and second == (record["weights"] != BASE) else None


def by_route(record: dict, row: dict, column: str) -> str | None:
    return column if row["weights, method"].endswith(f": {whole_label(record)}") else None


def the_record(task: str, meant: Meant, row: dict, column: str) -> dict:
    """The result of the one record that a cell is of."""
    text = re.search(r" \((.+)\)$", column)
    texts = [text[1]] if text else row["text"].split(", ")
    found = [
        record["results"][length]
        for record in records(task)
        if record["model"] == row["model"] and record["evaluation"] in texts
        if (length := meant(record, row, column)) in record["results"]
    ]
    assert len(found) == 1, (row, column, len(found))
    return found[0]


MEANT = {
    "table01": by_method,
    "table02": by_n_hat,
    "table03": before_and_after,
    "table05": by_label,
    "table06": by_label,
    "table07": by_label,
    "table09": by_label,
    "table10": by_label,
    "table11": by_search,
    "table12": by_route,
}


@pytest.mark.parametrize("name", some([*MEANT, "table08", "passkey", "retrieval"]))
def test_a_table_has_its_three_forms_and_a_protocol_in_every_row(name):
    table = table_of(name)
    assert len(measured(table)) >= 2
    assert (measured(table).protocol.str.len() > 3).all()
    assert not table.isin(["nan", "inf", "None", ""]).any().any()
    for ending in ("md", "tex", "html"):
        text = (RESULTS / f"tables/{name}.{ending}").read_text(encoding="utf-8")
        assert not re.search(r"\b(nan|inf|None)\b", text)
    assert r"\toprule" in (RESULTS / f"tables/{name}.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", some(list(MEANT)))
def test_every_perplexity_is_that_of_the_record_that_its_row_and_column_name(name):
    found, meant = list(cells(table_of(name))), MEANT[name]
    assert len(found) >= 4
    for row, column, value in found:
        perplexity = the_record("perplexity", meant, row, column)["perplexity"]
        if bound := re.fullmatch(r">10\^(\d+)", value):
            assert 10 ** int(bound[1]) <= perplexity < 10 ** (int(bound[1]) + 1)
        else:
            places = 1 if float(value) >= 100 else 2
            assert abs(perplexity - float(value)) <= 0.505 * 10**-places, (row, column)


@pytest.mark.parametrize("name", some(["passkey", "retrieval"]))
def test_every_share_found_is_that_of_its_record_and_has_its_interval(name):
    found = list(cells(table_of(name)))
    assert len(found) >= 8
    for row, column, value in found:
        needle = re.match(r"RULER (\w+)", row["protocol"])
        result = the_record("ruler" if needle else "passkey", by_label, row, column)
        result = result[needle[1]] if needle else result
        expected = [100 * result[key] for key in ("accuracy", "low", "high")]
        assert value == "{:.0f} [{:.0f}, {:.0f}]".format(*expected), (row, column)


@pytest.mark.ablations
def test_every_benchmark_score_is_that_of_its_record_and_chance_is_marked():
    names = {label: name for name, label in LABELS.items()}
    found = list(cells(table_of("table08")))
    assert len(found) == 12
    for row, column, value in found:
        result = the_record("benchmarks", by_only_length, row, column)[names[column]]
        mark = " (chance)" if result["at_chance"] else ""
        expected = f"{100 * result['value']:.1f} ± {100 * result['stderr']:.1f}{mark}"
        assert value == expected, (row, column)


def test_every_record_says_which_tokens_of_which_documents_it_scored():
    for each in records("perplexity"):
        assert {"corpus_sha256", "split", "window", "mode", "stride"} <= each["protocol"].keys()
        assert each["protocol"]["split"] == "test"
        for record in each["records"]:
            assert record["document"] and len(record["scored_sha256"]) == 64
        for result in each["results"].values():
            assert result["tokens"] and result["windows"] and result["documents"]
            assert result["documents"] == 1 or result["interval"][0] < result["perplexity"]


@pytest.mark.parametrize("name", some(FIGURES))
def test_a_figure_is_there_with_the_finite_numbers_that_it_draws(name):
    for ending in ("png", "pdf"):
        assert (RESULTS / f"figures/{name}.{ending}").stat().st_size > 10_000
    drawn = pd.read_csv(RESULTS / f"figures/{name}.csv")
    assert len(drawn) >= 4
    value = {"figure2": "cosine", "figure4": "accuracy", "depths": "found", "figure6": "minimised"}
    column = value.get(name, "loss" if name.startswith("figure5") else "perplexity")
    assert drawn[column].notna().all()
