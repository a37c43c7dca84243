"""
What a table is made of: the evaluations that are shown in it, what searches and tunings cost.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from longrope.config import Config
from longrope.report.load import Evaluation
from longrope.report.trace import Spent
from longrope.report.trainings import Cost


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything is of one configuration."""

    evaluations: list[Evaluation]  # in the order of the configuration
    traces: dict[str, Spent] = field(default_factory=dict)  # by path, from results/ on
    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)  # by model and weights
    paper: Path = Path("resources/paper/tables.csv")

    def texts(
        self, config: Config, task: str = "perplexity"
    ) -> Iterator[tuple[str, str, list[Evaluation]]]:
        """Model, name and evaluations of every configured evaluation of a task that was made."""
        for model, settings in config.models.items():
            for name in settings.evaluation:
                own = [
                    each
                    for each in self.evaluations
                    if (each.task, each.model, each.name) == (task, model, name)
                ]
                if own:
                    yield model, name, own
