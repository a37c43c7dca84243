"""
What every line of a search's trace must hold: for the search that goes on from it, and for reports.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longrope.config.base import Finite, Whole
from longrope.errors import UserError
from longrope.files import read_lines


class _Line(BaseModel):
    """One score; null stands for a loss that is not finite."""

    model_config = ConfigDict(strict=True)

    step: Whole
    generation: Whole
    start: str | None
    n_hat: Whole
    mu: list[Finite]
    attention: Finite | None
    critical: Whole
    sample: Whole
    fitness: Finite | None
    losses: dict[str, Finite | None] = Field(min_length=1)
    best_fitness: Finite | None
    best_perplexity: Finite | None
    tokens: Whole
    seconds: Finite


def read_trace_lines(path: Path) -> list[dict]:
    """The lines of a finished trace; UserError names the first that is wrong."""
    return checked(path, read_lines(path))


def checked(path: Path, lines: list[dict]) -> list[dict]:
    """The same lines; UserError names the first that is wrong."""
    for number, line in enumerate(lines, 1):
        try:
            _Line.model_validate(line)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            raise UserError(
                f"{path}: line {number} is no score of a search ({key}: {problem['msg']}); delete"
                f" {path.parent} and search again"
            ) from None
    return lines
