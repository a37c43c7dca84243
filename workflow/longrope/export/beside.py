"""
What was measured of a model, and how it was tuned, found beside it where nobody names it.

A model of the workflow is `results/MODEL/WEIGHTS/model`; the evaluations of all weights of the
model are taken, as the card leaves out those of others.
"""

from collections.abc import Sequence
from pathlib import Path

from longrope.errors import UserError
from longrope.models.checkpoint import CARD, METADATA, read_record

METRICS = "training/metrics.jsonl"  # beside the model that a tuning made
TABLE = "| evaluation | length |"  # which a card has if something was measured


def records_beside(model: Path) -> list[Path]:
    """The records of evaluations of the study that a model folder is part of."""
    weights = _weights(model)
    return sorted(weights.parent.glob("*/evaluation/*/*.json")) if weights else []


def trainings_beside(model: Path) -> list[Path]:
    """The metrics of the tunings that made a model folder, from the base on."""
    found: dict[Path, None] = {}
    weights = _weights(model)
    while weights and (path := weights / METRICS).is_file() and path not in found:
        found[path] = None
        start = read_record(weights / "model").start if _has_record(weights) else None
        weights = weights.parent / start if start else None
    return list(found)[::-1]


def _has_record(weights: Path) -> bool:
    return (weights / "model" / METADATA).is_file()


def _weights(model: Path) -> Path | None:
    """results/MODEL/WEIGHTS; None if the folder is not that of a study."""
    folder = model.absolute()
    return folder.parent if folder.name == "model" else None


def check_keeps_measured(out: Path, measured: Sequence) -> None:
    """Raise UserError where an export without a measurement would replace one that has some."""
    card = out / CARD
    if measured or not card.is_file() or TABLE not in card.read_text(encoding="utf-8"):
        return
    raise UserError(
        f"{out}: its card has what was measured, and no records are found for the new one: name"
        " them with --records, or export to another folder"
    )
