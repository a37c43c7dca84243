"""
Racing: documents one after the other, and only for candidates that may still matter.

A candidate is dropped as soon as, on the documents scored so far, it is worse than the one at the
bar by more than chance explains. The bar is the k-th best of all that were scored on every
document, where the optimiser keeps k. Documents differ in what they make of a candidate: its
fitness on one, less the mean of that candidate and the mean of that document, has variance v,
pooled over the best 2 k of those. The documents come in the same order for all. The difference of
two candidates on n of N documents then misses their difference on all N by a normal error of
variance 2 v (1/n - 1/N): N documents are all there is, so the error vanishes. Candidates beyond `Z`
of its deviations are dropped, and keep the estimate. Of those that are worth exactly what the bar
is, one in a hundred is dropped after each document, 3 in all where there are four or five.
"""

import math

import numpy as np

from longrope.search.optimisers import Optimiser, Told, Trial
from longrope.search.space import Candidate

Z = 2.33  # the one-sided hundredth of a normal error
ENOUGH = 8  # candidates scored on every document before any is dropped


class Racing:
    """An optimiser whose candidates race; it asks for a few more generations, each shorter."""

    def __init__(self, optimiser: Optimiser, keep: int, samples: int) -> None:
        self._optimiser, self._keep, self._samples = optimiser, keep, samples
        self._whole: dict[Candidate, np.ndarray] = {}  # finite fitness on every sample
        self._field: list[Candidate] = []  # the optimiser's generation
        self._known: dict[Candidate, dict[int, float]] = {}
        self._done = 0  # samples that the generation has been scored on

    def ask(self) -> list[Trial]:
        """The generation's survivors on the next document; on all at once while little is known."""
        if not self._field:
            self._field = [trial.candidate for trial in self._optimiser.ask()]
            self._known = {each: {} for each in self._field}
            self._done = 0
        every = tuple(range(self._samples))
        if len(self._whole) < max(ENOUGH, self._keep):
            return [Trial(each, every) for each in self._field]
        return [Trial(each, (self._done,)) for each in self._survivors()]

    def tell(self, told: list[Told]) -> None:
        """Take in one document; after the last, tell the optimiser of the whole generation."""
        for each in told:
            self._known[each.candidate].update(each.fitness)
        self._done = max(len(known) for known in self._known.values())
        if self._done < self._samples and self._survivors():
            return
        for candidate, known in self._known.items():
            values = np.array([known[key] for key in sorted(known)])
            if len(known) == self._samples and np.isfinite(values).all():
                self._whole[candidate] = values
        finished = [Told(each, self._estimate(each)) for each in self._field]
        self._field = []
        self._optimiser.tell(finished)

    def _survivors(self) -> list[Candidate]:
        if not self._done:
            return self._field
        missing = 1 / self._done - 1 / self._samples
        bar, bound = self._bar(), Z * math.sqrt(2 * self._variance() * missing)
        return [
            each
            for each in self._field
            if len(known := self._known[each]) == self._done
            and np.mean([value - bar[sample] for sample, value in known.items()]) <= bound
        ]

    def _bar(self) -> np.ndarray:
        order = sorted(self._whole.values(), key=lambda values: values.mean())
        return order[min(self._keep, len(order)) - 1]

    def _variance(self) -> float:
        """Of what is left of the fitness on a document without candidate and document."""
        order = sorted(self._whole.values(), key=lambda values: values.mean())
        table = np.array(order[: 2 * self._keep])
        if min(table.shape) < 2:
            return math.inf
        left = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        rows, columns = table.shape
        return float((left**2).sum() / ((rows - 1) * (columns - 1)))

    def _estimate(self, candidate: Candidate) -> dict[int, float]:
        """The fitness on every sample; where it was dropped, as far from the bar as before."""
        known = self._known[candidate]
        if len(known) == self._samples:
            return known
        bar = self._bar()
        behind = float(np.mean([value - bar[sample] for sample, value in known.items()]))
        return {
            sample: known.get(sample, float(bar[sample]) + behind)
            for sample in range(self._samples)
        }
