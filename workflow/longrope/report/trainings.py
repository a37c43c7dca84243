"""What the metrics of a tuning say of its cost."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from longrope.config import Config
from longrope.errors import UserError
from longrope.files import read_lines
from longrope.targets import training_files


@dataclass(frozen=True, slots=True)
class Cost:
    """What one or several tunings took."""

    trained: int  # weights, the most
    tokens: int
    seconds: float
    memory: int  # bytes, the most

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            max(self.trained, other.trained),
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            max(self.memory, other.memory),
        )


def read_costs(config: Config, paths: Iterable[Path]) -> dict[tuple[str, str], Cost]:
    """(model, weights) -> what its tuning took, by the metrics of its steps.

    UserError for a file of no tuning that the configuration shows in this table.
    """
    known, found = set(training_files(config, "tunings")), {}
    for path in map(Path, paths):
        place = "/".join(path.parts[-5:])
        if place not in known:
            raise UserError(f"{path}: the metrics of no tuning that is shown in this table")
        lines = read_lines(path)
        try:
            found[path.parts[-4], path.parts[-3]] = Cost(
                max(line["trained_parameters"] for line in lines),
                sum(line["tokens"] for line in lines),
                sum(line["seconds"] for line in lines),
                max(line["peak_memory"] for line in lines),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: incomplete ({error}); tune again") from None
    return found
