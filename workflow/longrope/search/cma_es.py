"""
CMA-ES (Hansen 2016, package `cma`) over factors: fewer evaluations than the paper's evolution.

The coordinates make the constraint disappear: log mu_i = sum over j <= i of max(u_j, 0), so that
every point is monotone. One more coordinate, rounded, is the index of n_hat. The first generation
scores the starts; the search begins at the best of them.
"""

import math

import cma
import numpy as np

from longrope.config import Cma
from longrope.search.space import N_HATS, STEP, Candidate, SearchSpace

N_HAT_SCALE = 10.0  # steps of n_hat's list to one unit of its coordinate


class CmaSearch:
    """CMA-ES behind ask and tell."""

    def __init__(
        self,
        settings: Cma,
        space: SearchSpace,
        starts: list[Candidate],
        rng: np.random.Generator,
    ) -> None:
        self._settings, self._space, self._starts, self._rng = settings, space, starts, rng
        self._strategy: cma.CMAEvolutionStrategy | None = None
        self._points: list[np.ndarray] = []

    def ask(self) -> list[Candidate]:
        """The starts first, then one generation of the strategy."""
        if self._strategy is None:
            return list(self._starts)
        self._points = self._strategy.ask()
        return [self.decode(point) for point in self._points]

    def tell(self, scored: list[tuple[Candidate, float]]) -> None:
        """Begin at the best start, then move with the generations."""
        if self._strategy is None:
            best, _ = min(scored, key=lambda each: each[1])
            self._strategy = cma.CMAEvolutionStrategy(
                self.encode(best),
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
        self._strategy.tell(self._points, [score for _, score in scored])

    def encode(self, candidate: Candidate) -> np.ndarray:
        """The coordinates of a candidate (one a pair, and n_hat)."""
        logs = np.log(np.maximum.accumulate(np.array(candidate.mu)) / STEP)
        n_hat = N_HATS.index(candidate.n_hat) / N_HAT_SCALE
        return np.append(np.diff(logs, prepend=0.0), n_hat)

    def decode(self, point: np.ndarray) -> Candidate:
        """The candidate at a point."""
        mu = np.exp(np.cumsum(np.maximum(point[:-1], 0.0)))
        index = int(np.clip(round(point[-1] * N_HAT_SCALE), 0, len(N_HATS) - 1))
        return self._space.snap(mu, N_HATS[index])
