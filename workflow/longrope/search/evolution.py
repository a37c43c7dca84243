"""
The paper's evolution search (Ding et al. 2024, Algorithm 1 and section 3.2).

What the paper leaves open, and the choice made here:

- Mutation: each factor, and n_hat, changes with probability p. A changed factor is drawn uniformly
  from the grid between its left neighbour, which may have changed just before, and its right one,
  so that the constraint lambda_i <= lambda_(i+1) holds by construction; n_hat uniformly from its
  list. The mutants of the initial population are made of the starts in turn.
- Crossover: two parents of the top k; pair after pair takes the value of either, drawn evenly. If
  that value is below the one before it, the other parent's is not, and is taken.
- A mutant or child that was met before is drawn again, so every candidate of the budget is another.
- Without starts the initial population is drawn uniformly from the space (the paper's baseline).

In LongRoPE2's space only the pairs from the critical one up mutate, and the critical pair is
inherited. An attention factor that is searched mutates like n_hat, and is inherited with it.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np

from longrope.config.search import Evolution
from longrope.search.optimisers import Told, Trial
from longrope.search.space import ATTENTION, STEP, Candidate, SearchSpace

DRAWS = 200  # of a candidate that was met before, until it is taken all the same


class EvolutionSearch:
    """Algorithm 1 behind ask and tell."""

    def __init__(
        self,
        settings: Evolution,
        space: SearchSpace,
        starts: list[Candidate],
        samples: int,
        rng: np.random.Generator,
    ) -> None:
        self._settings, self._space, self._starts, self._rng = settings, space, starts, rng
        self._samples = tuple(range(samples))
        self._top: list[tuple[float, Candidate]] = []  # the k best so far, best first
        self._met: set[Candidate] = set(starts)

    def ask(self) -> list[Trial]:
        """The initial population, then N1 mutations and N2 crossovers of the top k."""
        made = self._next() if self._top else self._population()
        return [Trial(candidate, self._samples) for candidate in made]

    def tell(self, told: list[Told]) -> None:
        """Update the top k; equal scores keep the earlier candidate."""
        known = {candidate for _, candidate in self._top}
        for each in told:
            if each.candidate not in known:
                known.add(each.candidate)
                self._top.append((each.mean, each.candidate))
        self._top.sort(key=lambda each: each[0])
        del self._top[self._settings.parents :]

    def _population(self) -> list[Candidate]:
        missing, starts = self._settings.population - len(self._starts), self._starts
        if not starts:
            return [self._new(lambda: self._space.random(self._rng)) for _ in range(missing)]
        mutants = itertools.islice(itertools.cycle(starts), max(0, missing))
        return starts + [self._new(partial(self.mutate, start)) for start in mutants]

    def _next(self) -> list[Candidate]:
        parents = [candidate for _, candidate in self._top]

        def mutant() -> Candidate:
            return self.mutate(parents[int(self._rng.integers(0, len(parents)))])

        def child() -> Candidate:
            first, second = self._rng.choice(len(parents), size=2, replace=len(parents) < 2)
            return self.cross(parents[first], parents[second])

        return [self._new(mutant) for _ in range(self._settings.mutations)] + [
            self._new(child) for _ in range(self._settings.crossovers)
        ]

    def _new(self, draw: Callable[[], Candidate]) -> Candidate:
        """What `draw` gives, drawn again as long as it was met before."""
        for _ in range(DRAWS):
            if (made := draw()) not in self._met:
                break
        self._met.add(made)
        return made

    def mutate(self, parent: Candidate) -> Candidate:
        """A copy in which each free factor, and n_hat, changed with probability p."""
        chance, space = self._settings.mutate_probability, self._space
        bottom, top = space.bounds(parent.critical)
        mu = list(parent.mu)
        for pair in range(parent.critical, len(mu)):
            if self._rng.random() >= chance:
                continue
            low, high = bottom, top
            if space.monotone:
                low = mu[pair - 1] if pair > parent.critical else low
                high = mu[pair + 1] if pair + 1 < len(mu) else high
            mu[pair] = int(self._rng.integers(low, high + 1))
        n_hat, attention = parent.n_hat, parent.attention
        if self._rng.random() < chance:
            n_hat = int(self._rng.choice(space.n_hats))
        if attention is not None and self._rng.random() < chance:
            attention = int(self._rng.integers(ATTENTION[0], ATTENTION[1] + 1))
        return self._snap(mu, n_hat, attention, parent.critical)

    def cross(self, first: Candidate, second: Candidate) -> Candidate:
        """A child that has each free factor, n_hat and the rest of one parent or the other."""
        parents, critical = (first, second), first.critical
        low, high = self._space.bounds(critical)
        mu = list(first.mu)
        for pair, choice in enumerate(self._rng.integers(0, 2, size=len(mu))):
            if pair < critical:
                continue
            least = mu[pair - 1] if self._space.monotone and pair > critical else low
            value, other = parents[choice].mu[pair], parents[1 - choice].mu[pair]
            mu[pair] = value if least <= value <= high else max(least, other)
        rest = parents[int(self._rng.integers(0, 2))]
        return self._snap(mu, rest.n_hat, rest.attention, critical)

    def _snap(self, mu: list[int], n_hat: int, attention: int | None, critical: int) -> Candidate:
        """The candidate of these numbers; those below the critical pair are derived again."""
        plain = None if attention is None else attention / STEP
        return self._space.snap(np.array(mu) / STEP, n_hat, plain, critical)
