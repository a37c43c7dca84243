"""The one face of every optimiser, and which of them a configuration names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from longrope.config.search import Bayesian, Cma, Evolution, OptimiserSettings
from longrope.search.space import Candidate, SearchSpace


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate to score, and on which samples (validation documents) of the scorer."""

    candidate: Candidate
    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What a trial gave: the fitness on every one of its samples; lower is better, inf is worst."""

    candidate: Candidate
    fitness: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean over the samples."""
        return sum(self.fitness.values()) / len(self.fitness)


class Optimiser(Protocol):
    """Asks for candidates to be scored and is told their fitness.

    It is a function of its arguments, its generator and what it was told: told the same again, it
    asks for the same candidates. So a search resumes by replaying its trace.
    """

    def ask(self) -> list[Trial]:
        """The next trials, a generation; some may have been asked for before."""
        ...

    def tell(self, told: list[Told]) -> None:
        """What all trials of the generation gave, in their order."""
        ...


class Starts:
    """Asks for candidates that are known beforehand, and for nothing else."""

    def __init__(self, starts: list[Candidate], samples: int) -> None:
        self._trials = [Trial(each, tuple(range(samples))) for each in starts]

    def ask(self) -> list[Trial]:
        """All of them, each time."""
        return self._trials

    def tell(self, told: list[Told]) -> None:
        """Nothing is learned."""


def make_optimiser(
    settings: OptimiserSettings | None,
    space: SearchSpace,
    starts: list[Candidate],
    samples: int,
    scores: int,
    rng: np.random.Generator,
) -> Optimiser:
    """The optimiser that the configuration names; without settings, one that only has starts.

    `starts` are good candidates to begin from; `samples` is how many documents there are, and
    `scores` how many scores on one of them may be spent.
    """
    match settings:
        case None:
            return Starts(starts, samples)
        case Evolution():
            from longrope.search.evolution import EvolutionSearch

            optimiser = EvolutionSearch(settings, space, starts, samples, rng)
            if settings.racing:
                from longrope.search.racing import Racing

                # Evolution keeps the `parents` best: what is below them changes nothing there.
                return Racing(optimiser, settings.parents, samples)
            return optimiser
        case Cma():
            from longrope.search.cma_es import CmaSearch

            return CmaSearch(settings, space, starts, samples, rng)
        case Bayesian():
            from longrope.search.bayesian import BayesianSearch

            return BayesianSearch(settings, space, starts, samples, scores, rng)
