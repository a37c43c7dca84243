"""Whether two runs of a study came to the same, whatever it took them."""

import csv
import hashlib
import json
from pathlib import Path

# What says how, and how fast, and no result.
CIRCUMSTANCES = {
    "seconds",
    "version",
    "versions",
    "longrope",
    "ran_in",
    "threads",
    "peak_memory",
    "arithmetic",
    "checksum",  # of all, those above included
}
MEASURED = {"seconds", "peak MiB"}  # columns of tables that say it, too
RECORDS = ("*/**/factors.json", "*/**/evaluation/**/*.json", "*/**/extended.json")
WEIGHTS = "*/*/model/*.safetensors"
TABLES = "tables/*.csv"
TEXT = "*/data/*/*/tokens.bin"


def records(results: Path, pattern: str) -> dict[str, object]:
    """The JSON files of a kind, by path: all that they say but the circumstances."""
    return {
        str(path.relative_to(results)): without(json.loads(path.read_text()), CIRCUMSTANCES)
        for path in sorted(results.glob(pattern))
    }


def contents(results: Path, pattern: str) -> dict[str, object]:
    """The sha256 of the files of a kind, by path."""
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.glob(pattern))
        if ".part" not in str(path)  # a draft that a kill left, which nobody takes for a result
    }


def tables(results: Path) -> dict[str, object]:
    """The rows of every table, by path, but for columns of what was measured."""
    found = {}
    for path in sorted(results.glob(TABLES)):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        found[str(path.relative_to(results))] = [
            {key: value for key, value in row.items() if key not in MEASURED} for row in rows
        ]
    return found


def everything(results: Path) -> dict[str, object]:
    """All that a study results in: text, weights, factors, evaluations and tables, by path."""
    found: dict[str, object] = {}
    for pattern in RECORDS:
        found |= records(results, pattern)
    for pattern in (TEXT, WEIGHTS):
        found |= contents(results, pattern)
    return found | tables(results)


def without(value, keys: set[str]):
    """A value of JSON without some keys, however deep."""
    if isinstance(value, dict):
        return {key: without(each, keys) for key, each in value.items() if key not in keys}
    return [without(each, keys) for each in value] if isinstance(value, list) else value
