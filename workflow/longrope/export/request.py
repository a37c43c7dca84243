"""
What an export is asked to be, and what came of it: what `stage` and the forms hand one another.
"""

from dataclasses import dataclass, field

from longrope.export.engines import Engine
from longrope.export.tables import Tables


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported, and how."""

    form: str  # native, full or gguf
    engine: Engine
    window: int | None = None  # whose factors serve every length; None: the longest
    two: bool = False  # two tables instead of one
    dtype: str | None = None  # in which weights are stored; None: as they are
    licence: str | None = None  # of the base model, where nothing tells it


@dataclass(frozen=True, slots=True)
class Written:
    """What a form wrote, for the card."""

    tables: Tables
    in_weights: bool  # whether an attention factor went into the weights
    difference: float | None  # the largest of a logit, to this project's own; None: not run
    said: list[str]  # what the form cannot express
    lost: list[str] = field(default_factory=list)  # what that costs, as measured
