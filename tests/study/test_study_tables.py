"""
What the whole study's tables and figures must be, asserted on the results of a real run.

    snakemake --cores all study && pytest tests/study

Every table and figure is there, no cell is empty of meaning, and every number in a table of
perplexities or passkeys is that of a record, for the text that the row names.
"""

import json
import re
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

RESULTS = Path(__file__).parents[2] / "results"
PERPLEXITIES = ["01", "02", "03", "05", "06", "07", "09", "10", "11", "12"]
TABLES = [*(f"table{number}" for number in [*PERPLEXITIES, "08"]), "passkey", "retrieval"]
FIGURES = [*(f"figure{name}" for name in ("1", "2", "3", "4", "5", "5c", "6")), "depths"]
WORDS = {"model", "text", "weights, method", "source", "attention factor", "protocol"}
WORDS |= {"other than text in tuning"}
COUNTS = ("windows (of documents) scored", "prompts", "questions (of)", "guessing")


def table_of(name: str) -> pd.DataFrame:
    path = RESULTS / f"tables/{name}.csv"
    assert path.exists(), "run the whole study first: snakemake --cores all study"
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of our own that hold measurements, not amounts."""
    own = table[table.source == "ours"]
    return own[~own["weights, method"].str.startswith(COUNTS)]


def cells(table: pd.DataFrame):
    """Text and value of every cell that holds one."""
    for row in measured(table).to_dict("records"):
        for column, value in row.items():
            if column not in WORDS and value != "–":
                yield row["text"], value


@cache
def records(task: str) -> tuple[dict, ...]:
    """Every evaluation file of a task."""
    files = sorted(RESULTS.glob("*/*/evaluation/*/*.json"))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return tuple(each for each in found if each["task"] == task)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_its_three_forms_and_a_protocol_in_every_row(name):
    table = table_of(name)
    assert len(measured(table)) >= 2
    assert (measured(table).protocol.str.len() > 3).all()
    assert not table.isin(["nan", "inf", "None", ""]).any().any()
    for ending in ("md", "tex", "html"):
        text = (RESULTS / f"tables/{name}.{ending}").read_text(encoding="utf-8")
        assert not re.search(r"\b(nan|inf|None)\b", text)
    assert r"\toprule" in (RESULTS / f"tables/{name}.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [f"table{number}" for number in PERPLEXITIES])
def test_every_perplexity_is_that_of_a_record_of_its_text(name):
    known: dict[str, list[float]] = {}
    for each in records("perplexity"):
        values = [result["perplexity"] for result in each["results"].values()]
        known.setdefault(each["evaluation"], []).extend(values)
    found = list(cells(table_of(name)))
    assert len(found) >= 4
    for text, value in found:
        candidates = [number for part in text.split(", ") for number in known[part]]
        if bound := re.fullmatch(r">10\^(\d+)", value):
            power = int(bound[1])
            assert any(10**power <= number < 10 ** (power + 1) for number in candidates)
        else:
            near = min(abs(number - float(value)) for number in candidates)
            assert near <= (0.05 if float(value) >= 100 else 0.005) * 1.01


@pytest.mark.parametrize("name", ["passkey", "retrieval"])
def test_every_share_found_is_that_of_a_record_and_has_its_interval(name):
    known = set()
    for each in records("passkey"):
        for result in each["results"].values():
            known.add((each["evaluation"], f"{100 * result['accuracy']:.0f}"))
    for each in records("ruler"):
        for result in each["results"].values():
            for needle in result.values():
                known.add((each["evaluation"], f"{100 * needle['accuracy']:.0f}"))
    found = list(cells(table_of(name)))
    assert len(found) >= 8
    for text, value in found:
        share, low, high = re.fullmatch(r"(\d+) \[(\d+), (\d+)\]", value).groups()
        assert int(low) <= int(share) <= int(high)
        assert (text, share) in known


def test_every_benchmark_score_is_that_of_a_record_and_chance_is_marked():
    known = {
        f"{100 * result['value']:.1f} ± {100 * result['stderr']:.1f}"
        + (" (chance)" if result["at_chance"] else "")
        for each in records("benchmarks")
        for results in each["results"].values()
        for result in results.values()
    }
    found = [value for _, value in cells(table_of("table08"))]
    assert len(found) == 12 and set(found) <= known


def test_every_record_says_which_tokens_of_which_documents_it_scored():
    for each in records("perplexity"):
        assert {"corpus_sha256", "split", "window", "mode", "stride"} <= each["protocol"].keys()
        assert each["protocol"]["split"] == "test"
        for record in each["records"]:
            assert record["document"] and len(record["scored_sha256"]) == 64
        for result in each["results"].values():
            assert result["tokens"] and result["windows"] and result["documents"]
            assert result["documents"] == 1 or result["interval"][0] < result["perplexity"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_there_with_the_finite_numbers_that_it_draws(name):
    for ending in ("png", "pdf"):
        assert (RESULTS / f"figures/{name}.{ending}").stat().st_size > 10_000
    drawn = pd.read_csv(RESULTS / f"figures/{name}.csv")
    assert len(drawn) >= 4
    value = {"figure2": "cosine", "figure4": "accuracy", "depths": "found", "figure6": "minimised"}
    column = value.get(name, "loss" if name.startswith("figure5") else "perplexity")
    assert drawn[column].notna().all()
