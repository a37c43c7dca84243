"""
What a search may propose: the grid of Table 4, and how a point on it becomes factors.

A candidate is n_hat and one multiplier mu a pair, in hundredths (the paper's step of 0.01), so
that equal candidates are equal numbers. A first search and a recovery set lambda = mu. A second
search multiplies the factors that the model was fine-tuned with: lambda_i = lambda_i(tuned) mu_i,
as all but one of the tables that the paper's authors published do.
"""

import math
from dataclasses import dataclass

import numpy as np

from longrope.factors import RescaleFactors, Rope

STEP = 100  # grid points to 1.0
N_HATS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)  # Table 4
MARGIN = 1.25  # lambda reaches up to 1.25 s


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point of the search space."""

    n_hat: int
    mu: tuple[int, ...]  # hundredths, one a pair, highest frequency first


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The space of one search."""

    rope: Rope
    window: int  # the target
    upper: int  # largest mu, in hundredths
    base: tuple[float, ...]  # what mu multiplies: ones, or the tuned lambda
    monotone: bool = True  # mu does not decrease

    def snap(self, mu, n_hat: int) -> Candidate:
        """The candidate nearest to multipliers of any kind: on the grid, in bounds, monotone."""
        grid = np.clip(np.rint(np.asarray(mu, dtype=float) * STEP), STEP, self.upper)
        if self.monotone:
            grid = np.maximum.accumulate(grid)
        nearest = min(N_HATS, key=lambda each: abs(each - n_hat))
        return Candidate(nearest, tuple(int(value) for value in grid))

    def candidate(self, factors: RescaleFactors) -> Candidate:
        """The candidate nearest to given factors."""
        mu = [
            self.upper / STEP if math.isinf(value) else value / base
            for value, base in zip(factors.lambda_, self.base, strict=True)
        ]
        return self.snap(mu, factors.n_hat)

    def factors(
        self, candidate: Candidate, method: str, attention_factor: float, provenance: dict
    ) -> RescaleFactors:
        """What a candidate means for the model."""
        lambda_ = tuple(
            round(base * mu / STEP, 10) for base, mu in zip(self.base, candidate.mu, strict=True)
        )
        return RescaleFactors(
            rope=self.rope,
            window=self.window,
            method=method,
            lambda_=lambda_,
            n_hat=candidate.n_hat,
            attention_factor=attention_factor,
            provenance=provenance,
        )


def first_space(rope: Rope, window: int, monotone: bool = True) -> SearchSpace:
    """Table 4: lambda in [1, 1.25 s], s = window / original window."""
    upper = round(MARGIN * window / rope.original_window * STEP)
    return SearchSpace(rope, window, upper, (1.0,) * rope.pairs, monotone)


def second_space(tuned: RescaleFactors, window: int, monotone: bool = True) -> SearchSpace:
    """Multipliers in [1, 1.25 s'] on tuned factors, s' = window / tuned window."""
    upper = round(MARGIN * window / tuned.window * STEP)
    return SearchSpace(tuned.rope, window, upper, tuned.lambda_, monotone)


def recovery_space(tuned: RescaleFactors, window: int, monotone: bool = True) -> SearchSpace:
    """Absolute factors up to the largest tuned lambda, for a short window of a tuned model."""
    largest = max((value for value in tuned.lambda_ if math.isfinite(value)), default=1.0)
    upper = max(STEP, round(largest * STEP))
    return SearchSpace(tuned.rope, window, upper, (1.0,) * tuned.rope.pairs, monotone)
