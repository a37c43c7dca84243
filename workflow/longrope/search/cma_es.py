"""
CMA-ES (Hansen 2016, package `cma`) over factors.

It works on the vectors of the space, where the constraint holds everywhere. The first generation
scores the starts; the search begins at the best of them.
"""

import math

import cma
import numpy as np

from longrope.config.search import Cma
from longrope.search.optimisers import Told, Trial
from longrope.search.space import Candidate, SearchSpace

WORST = 1e3  # a fitness that is not finite, for the strategy


class CmaSearch:
    """CMA-ES behind ask and tell."""

    def __init__(
        self,
        settings: Cma,
        space: SearchSpace,
        starts: list[Candidate],
        samples: int,
        rng: np.random.Generator,
    ) -> None:
        self._settings, self._space, self._starts, self._rng = settings, space, starts, rng
        self._samples = tuple(range(samples))
        self._strategy: cma.CMAEvolutionStrategy | None = None
        self._points: list[np.ndarray] = []

    def ask(self) -> list[Trial]:
        """The starts first, then one generation of the strategy."""
        made = self._starts
        if self._strategy is not None:
            self._points = self._strategy.ask()
            made = self._space.decode(np.array(self._points))
        return [Trial(candidate, self._samples) for candidate in made]

    def tell(self, told: list[Told]) -> None:
        """Begin at the best start, then move with the generations."""
        if self._strategy is None:
            best = min(told, key=lambda each: each.mean).candidate
            self._strategy = cma.CMAEvolutionStrategy(
                self._space.encode([best])[0],
                self._settings.sigma,
                {
                    "popsize": self._settings.population,
                    "randn": lambda *shape: self._rng.standard_normal(shape),
                    "seed": math.nan,  # leave numpy's global generator alone
                    "verbose": -9,
                    "termination_callback": lambda _: False,
                },
            )
            return
        self._strategy.tell(self._points, [min(each.mean, WORST) for each in told])
