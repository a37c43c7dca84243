"""
What an evaluation file must hold for whoever reads one: tables, figures, cards, published entries.

Only what they compute with is asked for, of the right type; more may stand there. It imports
nothing heavy, so that a report need not load what evaluates.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from longrope.config.base import Count, Finite, Whole
from longrope.errors import UserError
from longrope.files import read_json
from longrope.reading import parse
from longrope.windows import parse_window

SCHEMA = 2  # of evaluation files
AGAIN = "delete it and run the evaluation again"
Length = Annotated[str, AfterValidator(parse_window)]


class _Part(BaseModel):
    """A JSON object: `1` is no text, `true` no number, and NaN none."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Factors(_Part):
    window: Whole
    attention_factor: Finite
    n_hat: Whole
    fingerprint: str


class _Trial(_Part):
    found: bool


class _Perplexity(_Part):
    perplexity: Finite
    perplexity_document_mean: Finite
    interval: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None
    tokens: Whole
    windows: Whole
    documents: Whole
    joined: Whole


class _Found(_Part):
    accuracy: Finite
    found: Whole
    prompts: Whole
    low: Finite
    high: Finite


class _Score(_Part):
    metric: str
    value: Finite
    stderr: Finite
    chance: Finite
    questions: Whole
    shots: Whole
    at_chance: bool


class _Document(_Part):
    length: Whole
    document: str
    joined: bool
    tokens: Count
    loss: Finite
    windows: list[Annotated[list[Finite], Field(min_length=3, max_length=3)]]
    scored_sha256: str


class _Passkeys(_Part):
    length: Whole
    prompts: Count
    found: Whole
    trials: list[_Trial]


class _Needles(_Passkeys):
    needle: str


class _Benchmark(_Part):
    length: Whole
    benchmark: str


class _File(_Part):
    task: str
    evaluation: str
    model: str
    weights: str
    method: str
    weights_fingerprint: str
    protocol: dict[str, Any]
    amounts: dict[Length, Whole]
    factors: dict[Length, _Factors]
    results: dict[Length, dict[str, Any]]
    records: list[dict[str, Any]]


TASKS = {  # task -> one result, one record
    "perplexity": (_Perplexity, _Document),
    "passkey": (_Found, _Passkeys),
    "ruler": (dict[str, _Found], _Needles),
    "benchmarks": (dict[str, _Score], _Benchmark),
}


def read_evaluation(path: Path) -> dict:
    """The JSON object of an evaluation file; UserError names what is wrong with it."""
    return checked(path, read_json(path, AGAIN))


def checked(path: Path, record: dict) -> dict:
    """The same object, which was read from there; UserError names what is wrong with it."""
    if "schema" not in record:
        raise UserError(f"{path}: the key 'schema' is missing: no file of an evaluation")
    if record["schema"] != SCHEMA:
        raise UserError(f"{path}: schema {record['schema']!r}, expected schema {SCHEMA}; {AGAIN}")
    parse(_File, record, f"{path}: no file of an evaluation")
    if record["task"] not in TASKS:
        known = ", ".join(TASKS)
        raise UserError(f"{path}: unknown task {record['task']!r}: known are {known}")
    result, each = TASKS[record["task"]]
    parse(dict[str, result], record["results"], f"{path}: results")
    parse(list[each], record["records"], f"{path}: records")
    lengths = [set(map(parse_window, record[key])) for key in ("factors", "results")]
    lengths.append({record["length"] for record in record["records"]})
    if any(found != lengths[0] for found in lengths):
        raise UserError(
            f"{path}: its factors, results and records are not of the same lengths; {AGAIN}"
        )
    return record
