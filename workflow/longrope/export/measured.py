"""
What was measured of an exported model, and what a form loses: read from evaluation files.

Rows are found by what factors do, not by what methods are called: an evaluation of the same
weights belongs to all tiers where it ran each length with its tier, to the export where it ran with
the exported table.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from longrope.evaluate.records import factors_at, identity_of
from longrope.evaluation_file import AGAIN, checked
from longrope.export.tables import Tables
from longrope.factors import RescaleFactors
from longrope.files import read_json
from longrope.models.checkpoint import ModelRecord
from longrope.windows import parse_window


@dataclass(frozen=True, slots=True)
class Measured:
    """One result: one evaluation of these weights at one length with some factors."""

    task: str  # perplexity or passkey
    evaluation: str  # its name in the configuration
    length: int
    factors: str  # identity of what it ran with
    value: float  # perplexity, or share of passkeys found
    amount: int  # tokens scored, or prompts
    documents: int | None
    protocol: dict
    corpus: str  # first characters of the hash of what was scored; empty for prompts


@dataclass(frozen=True, slots=True)
class Pair:
    """The same measure with all tiers and with the exported factors; None: not measured."""

    task: str
    evaluation: str
    length: int
    tiers: Measured | None
    export: Measured | None


def read_measured(paths: Iterable[Path], record: ModelRecord) -> list[Measured]:
    """The perplexities and passkeys of some files that are about these very weights."""
    files = {path: read_json(path, AGAIN) for path in paths}
    own = {path: file for path, file in files.items() if _is_of(file, record)}
    return measured_in([checked(path, file) for path, file in own.items()], record)


def measured_in(evaluations: Iterable[dict], record: ModelRecord) -> list[Measured]:
    """Those of some evaluations, as files and published entries have them."""
    found = []
    for file in evaluations:
        if not _is_of(file, record):
            continue
        for label, result in file["results"].items():
            if file["task"] == "perplexity":
                value, amount = result["perplexity"], result["tokens"]
            elif file["task"] == "passkey":
                value, amount = result["accuracy"], result["prompts"]
            else:
                continue
            found.append(
                Measured(
                    file["task"],
                    file["evaluation"],
                    parse_window(label),
                    file["factors"][label]["fingerprint"],
                    value,
                    amount,
                    result.get("documents"),
                    file["protocol"],
                    file["protocol"].get("corpus_sha256", ""),
                )
            )
    return found


def _is_of(evaluation: dict, record: ModelRecord) -> bool:
    return evaluation.get("weights_fingerprint") == record.fingerprint


def pairs(measured: Sequence[Measured], tables: Tables) -> list[Pair]:
    """What was measured with the tiers or the exported factors, by evaluation and length."""
    keys = dict.fromkeys((each.task, each.evaluation, each.length) for each in measured)
    rows = []
    for task, evaluation, length in sorted(keys):
        here = [
            each
            for each in measured
            if (each.task, each.evaluation, each.length) == (task, evaluation, length)
        ]
        row = Pair(
            task,
            evaluation,
            length,
            _with(here, factors_at(tables.tiers, length)),
            _with(here, _used(tables, length)) if length <= tables.window else None,
        )
        if row.tiers or row.export:
            rows.append(row)
    return rows


def losses(rows: Sequence[Pair], tables: Tables) -> Iterator[str]:
    """What the exported factors cost at each length, a sentence each; and where nobody measured
    it, the original window above all."""
    if not any(row.export for row in rows):
        yield (
            "These weights were not evaluated with the exported factors: what they cost at short"
            " windows is not known."
        )
        return
    original = tables.tiers.rope.original_window
    asked = [row for row in rows if row.task == "perplexity" and row.length <= tables.window]
    known = {row.length for row in asked if row.export}
    for length in sorted({row.length for row in asked if row.tiers} | {original}):
        tier = factors_at(tables.tiers, length)
        if identity_of(tier) == identity_of(_used(tables, length)):
            continue
        of_tiers = [row for row in asked if row.length == length and row.tiers]
        for row in of_tiers:
            if row.export:
                yield (
                    f"perplexity at {length} tokens ({row.evaluation}): {row.export.value:.2f} with"
                    f" the exported factors, {row.tiers.value:.2f} with those of its tier"
                )
        if length not in known:
            where = " (the original window)" if length == original else ""
            others = "; ".join(f"{row.tiers.value:.2f} ({row.evaluation})" for row in of_tiers)
            yield (
                f"perplexity at {length} tokens{where} is not measured with the exported factors"
                f"{f'; with those of its tier it is {others}' if others else ''}"
            )


def _used(tables: Tables, length: int) -> RescaleFactors:
    """What the export turns by at a length."""
    return tables.short if length <= tables.original else tables.long


def _with(here: Sequence[Measured], factors: RescaleFactors) -> Measured | None:
    identity = identity_of(factors)
    return next((each for each in here if each.factors == identity), None)
