"""The one face of every optimiser, and which of them a configuration names."""

from typing import Protocol

import numpy as np

from longrope.config import Cma, Evolution
from longrope.search.space import Candidate, SearchSpace


class Optimiser(Protocol):
    """Asks for candidates to be scored and is told their scores; lower is better.

    It is a function of its arguments, its generator and what it was told: told the same scores
    again, it asks for the same candidates. So a search resumes by replaying its trace.
    """

    def ask(self) -> list[Candidate]:
        """The next candidates, a generation; some may have been asked for before."""
        ...

    def tell(self, scored: list[tuple[Candidate, float]]) -> None:
        """The scores of all candidates of the generation."""
        ...


def make_optimiser(
    settings: Evolution | Cma,
    space: SearchSpace,
    starts: list[Candidate],
    rng: np.random.Generator,
) -> Optimiser:
    """The optimiser that the configuration names; `starts` are good candidates to begin from."""
    if isinstance(settings, Evolution):
        from longrope.search.evolution import EvolutionSearch

        return EvolutionSearch(settings, space, starts, rng)
    from longrope.search.cma_es import CmaSearch

    return CmaSearch(settings, space, starts, rng)
