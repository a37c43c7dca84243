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
    "crc32",  # of a line
    "training.json",  # in longrope.json, the hash of a file that has seconds; compared by itself
    "tuned_factors.json",  # the same
}
MEASURED = {"seconds", "peak MiB"}  # columns of tables that say it, too
RECORDS = ("*/**/factors.json", "*/**/evaluation/**/*.json", "*/**/extended.json")
PROGRESS = "state"  # of stages, below results/


def records(results: Path, pattern: str) -> dict[str, object]:
    """The JSON files of a kind, by path: all that they say but the circumstances."""
    return {str(path.relative_to(results)): said(path) for path in sorted(results.glob(pattern))}


def everything(results: Path) -> dict[str, object]:
    """All files that a study results in, by path: what they say but the circumstances."""
    files = (path.relative_to(results) for path in sorted(results.rglob("*")) if path.is_file())
    return {
        str(path): said(results / path)
        for path in files
        if path.parts[0] != PROGRESS and not any(part.startswith(".") for part in path.parts)
    }


def said(path: Path) -> object:
    """What a file says but the circumstances; of another kind than text, its sha256."""
    if path.suffix == ".json":
        return without(json.loads(path.read_text()), CIRCUMSTANCES)
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        return [without(json.loads(line), CIRCUMSTANCES) for line in lines]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{key: row[key] for key in row if key not in MEASURED} for row in rows]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without(value, keys: set[str]):
    """A value of JSON without some keys, however deep."""
    if isinstance(value, dict):
        return {key: without(each, keys) for key, each in value.items() if key not in keys}
    return [without(each, keys) for each in value] if isinstance(value, list) else value
