"""
Factors by length (`extended.json`), which make a window-extended model of weights.

The tier is the smallest window that holds the whole sequence, prompt and new tokens together.
`extended_model.py` runs a model by them.
"""

from dataclasses import dataclass
from pathlib import Path

from longrope.errors import UserError
from longrope.factors import (
    MADE,
    RescaleFactors,
    Rope,
    check_same_model,
    read_factors,
    write_factors,
)
from longrope.files import read_json, write_checked
from longrope.windows import window_label

SCHEMA = 1  # of extended.json


@dataclass(frozen=True, slots=True)
class Tiers:
    """Factors by the longest sequence that they are for, shortest first."""

    factors: tuple[RescaleFactors, ...]

    def __post_init__(self) -> None:
        if not self.factors:
            raise UserError("an extended model needs factors for at least one window")
        windows = [each.window for each in self.factors]
        if windows != sorted(set(windows)):
            raise UserError(f"tiers must have windows that rise, these are {windows}")
        for each in self.factors[1:]:
            check_same_model(each.rope, self.rope)

    @property
    def rope(self) -> Rope:
        """The embedding that all tiers rescale."""
        return self.factors[0].rope

    @property
    def longest(self) -> RescaleFactors:
        """The factors of the longest window."""
        return self.factors[-1]

    def at(self, window: int) -> RescaleFactors:
        """The factors of one window; UserError lists those that there are."""
        for each in self.factors:
            if each.window == window:
                return each
        known = ", ".join(window_label(each.window) for each in self.factors)
        raise UserError(f"there are no factors for {window_label(window)}, but for {known}")

    def for_length(self, tokens: int) -> RescaleFactors:
        """The factors for sequences of `tokens` tokens; UserError beyond the longest window."""
        for each in self.factors:
            if tokens <= each.window:
                return each
        raise UserError(
            f"a sequence of {tokens:,} tokens is longer than the longest window,"
            f" {window_label(self.longest.window)}: search factors for a longer one"
        )


def make_tiers(factors: list[RescaleFactors]) -> Tiers:
    """Tiers from factors in any order; UserError if two are for the same window."""
    return Tiers(tuple(sorted(factors, key=lambda each: each.window)))


def with_original(tiers: Tiers) -> Tiers:
    """Tiers of weights that were never tuned: within their window they keep the original RoPE."""
    from longrope.baselines import closed_form

    rope = tiers.rope
    if tiers.factors[0].window <= rope.original_window:
        return tiers
    return make_tiers([closed_form("none", rope, rope.original_window), *tiers.factors])


def write_extended(folder: Path, tiers: Tiers, weights: Path) -> None:
    """Write the deliverable: `extended.json`, and the factors of every tier beside it."""
    entries = []
    for each in tiers.factors:
        name = f"{window_label(each.window)}.json"
        write_factors(folder / name, each)
        entries.append({"max_length": each.window, "method": each.method, "factors": name})
    write_checked(
        folder / "extended.json",
        {
            "schema": SCHEMA,
            "model": tiers.rope.model,
            "base_fingerprint": tiers.rope.fingerprint,
            "original_window": tiers.rope.original_window,
            "weights": str(weights),  # a checkpoint, from the working directory
            "tiers": entries,
        },
    )


def read_tiers(path: Path, rope: Rope | None = None) -> Tiers:
    """Read `extended.json`, or one `factors.json` as the only tier."""
    record = read_json(path, MADE)
    if "tiers" not in record:
        return Tiers((read_factors(path, rope),))
    if record.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {record.get('schema')!r}, this version reads {SCHEMA}")
    tiers = []
    for entry in _entries(path, record):
        factors = read_factors(Path(path).parent / entry["factors"], rope)
        if factors.window != entry["max_length"]:
            raise UserError(
                f"{path}: a tier of {entry['max_length']} tokens names factors for {factors.window}"
            )
        tiers.append(factors)
    try:
        return Tiers(tuple(tiers))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _entries(path: Path, record: dict) -> list[dict]:
    entries = record["tiers"]
    for entry in entries if isinstance(entries, list) else [None]:
        name = entry.get("factors") if isinstance(entry, dict) else None
        if not (isinstance(name, str) and isinstance(entry.get("max_length"), int)):
            raise UserError(
                f"{path}: tiers must be a list of objects with max_length (a number) and factors"
                f" (a file), found {entry if isinstance(entries, list) else entries!r}"
            )
    return entries
