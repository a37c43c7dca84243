"""
The paper's evolution search (Ding et al. 2024, Algorithm 1 and section 3.2).

What the paper leaves open, and the choice made here:

- Mutation: each factor, and n_hat, changes with probability p. A changed factor is drawn uniformly
  from the grid between its left neighbour and its right one, so that the constraint
  lambda_i <= lambda_(i+1) holds by construction; n_hat uniformly from its list.
- Crossover: two parents of the top k; pair after pair takes the value of either, drawn evenly. If
  that value is below the one before it, the other parent's is not, and is taken.
- A candidate that was met before is not scored again, and still counts among the generation.
"""

import numpy as np

from longrope.config import Evolution
from longrope.search.space import N_HATS, STEP, Candidate, SearchSpace


class EvolutionSearch:
    """Algorithm 1 behind ask and tell."""

    def __init__(
        self,
        settings: Evolution,
        space: SearchSpace,
        starts: list[Candidate],
        rng: np.random.Generator,
    ) -> None:
        self._settings, self._space, self._starts, self._rng = settings, space, starts, rng
        self._top: list[tuple[float, Candidate]] = []  # the k best so far, best first

    def ask(self) -> list[Candidate]:
        """The initial population, then N1 mutations and N2 crossovers of the top k."""
        settings = self._settings
        if not self._top:
            mutants = settings.population - len(self._starts)
            return self._starts + [
                self.mutate(self._starts[index % len(self._starts)]) for index in range(mutants)
            ]
        parents = [candidate for _, candidate in self._top]
        mutants = [self.mutate(self._pick(parents)) for _ in range(settings.mutations)]
        children = []
        for _ in range(settings.crossovers):
            first, second = self._rng.choice(len(parents), size=2, replace=len(parents) < 2)
            children.append(self.cross(parents[first], parents[second]))
        return mutants + children

    def tell(self, scored: list[tuple[Candidate, float]]) -> None:
        """Update the top k; equal scores keep the earlier candidate."""
        known = {candidate for _, candidate in self._top}
        for candidate, score in scored:
            if candidate not in known:
                known.add(candidate)
                self._top.append((score, candidate))
        self._top.sort(key=lambda each: each[0])
        del self._top[self._settings.parents :]

    def mutate(self, parent: Candidate) -> Candidate:
        """A copy in which each factor and n_hat changed with probability p."""
        chance = self._settings.mutate_probability
        mu = list(parent.mu)
        for pair in range(len(mu)):
            if self._rng.random() >= chance:
                continue
            low, high = STEP, self._space.upper
            if self._space.monotone:
                low = mu[pair - 1] if pair else low
                high = mu[pair + 1] if pair + 1 < len(mu) else high
            mu[pair] = int(self._rng.integers(low, high + 1))
        n_hat = parent.n_hat
        if self._rng.random() < chance:
            n_hat = int(self._rng.choice(N_HATS))
        return Candidate(n_hat, tuple(mu))

    def cross(self, first: Candidate, second: Candidate) -> Candidate:
        """A child that has each factor, and n_hat, of one parent or the other."""
        parents = (first, second)
        mu: list[int] = []
        for pair, choice in enumerate(self._rng.integers(0, 2, size=len(first.mu))):
            value = parents[choice].mu[pair]
            if self._space.monotone and mu and value < mu[-1]:
                value = parents[1 - choice].mu[pair]
            mu.append(value)
        return Candidate(parents[int(self._rng.integers(0, 2))].n_hat, tuple(mu))

    def _pick(self, candidates: list[Candidate]) -> Candidate:
        return candidates[int(self._rng.integers(0, len(candidates)))]
