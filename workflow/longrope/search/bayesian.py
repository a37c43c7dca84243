"""
Bayesian optimisation around the best factors so far.

Candidates are scored on single documents, each generation on the next one; a Gaussian process
(`gaussian.py`) tells what they are worth on all of them. It begins with the starts and with random
smooth ramps, which may lie in a better basin than the starts do, and then proposes steps around the
candidate that it takes for the best, near and far, in all coordinates or in a few, and some more
ramps. Every few generations that candidate is scored on all documents, and what is left
of the budget at the end goes to the finalists: only what was scored on all can win.
"""

import math

import numpy as np

from longrope.config.search import Bayesian
from longrope.search.gaussian import GaussianProcess
from longrope.search.optimisers import Told, Trial
from longrope.search.space import Candidate, SearchSpace

POOL = 1500  # steps that one generation chooses from
RAMPS = 100  # and random ramps, unless the settings want none
REACHES = (0.25, 0.7, 1.5)  # of a step, in sigmas
SHARES = (0.2, 0.5, 1.0)  # of the coordinates that a step changes
BEND = 0.2  # nats above the best from which on differences count less and less
FAR = 1e3  # nats above the best that a loss counts that is not finite
LENGTH = 2.0  # of the process before anything is seen, in sigmas
TUNE_EVERY = 1.25  # growth of the observations after which its lengths are found again
MOST = 250  # observations that it takes in; the best ones


class BayesianSearch:
    """A Gaussian process behind ask and tell."""

    def __init__(
        self,
        settings: Bayesian,
        space: SearchSpace,
        starts: list[Candidate],
        samples: int,
        scores: int,
        rng: np.random.Generator,
    ) -> None:
        """`scores`: how many scores on one sample may be spent in all."""
        self._settings, self._space, self._starts, self._rng = settings, space, starts, rng
        self._samples, self._scores = samples, scores
        self._seen: dict[tuple[Candidate, int], float] = {}
        self._generation = 0
        self._turn = 1  # the next document of a generation's own; the first had the starts
        self._process = GaussianProcess(space.encode(starts[:1]).shape[1], LENGTH)
        self._tuned_at = 0

    def ask(self) -> list[Trial]:
        """Starts and ramps; then the best of them on all samples; then steps, best to worst."""
        if not self._seen:
            return self._first()
        if self._generation == 1:
            values = {each: value for (each, _), value in self._seen.items()}
            best = sorted(values, key=values.get)
            return [self._whole(each) for each in best[: self._settings.finalists]]
        believed = self._believed()
        left = self._scores - len(self._seen)
        reserve = self._settings.finalists * (self._samples - 1)
        if left <= reserve:
            return self._finals(believed, left) or self._next(believed[0], left)
        due = self._generation % self._settings.check_every == 0
        if due and (check := self._finals(believed[:1], left - reserve)):
            return check
        return self._next(believed[0], left - reserve)

    def _finals(self, candidates: list[Candidate], left: int) -> list[Trial]:
        """The first candidates not scored on all samples yet, as many as `left` scores complete."""
        chosen = []
        for each in candidates:
            missing = sum((each, sample) not in self._seen for sample in range(self._samples))
            if missing and missing <= left and len(chosen) < self._settings.finalists:
                chosen.append(self._whole(each))
                left -= missing
        return chosen

    def _next(self, centre: Candidate, most: int) -> list[Trial]:
        """Steps around `centre` on the next sample, at most so many."""
        sample = self._turn % self._samples
        self._turn += 1
        steps = self._steps(centre, sample, min(self._settings.batch, most))
        return [Trial(each, (sample,)) for each in steps]

    def _first(self) -> list[Trial]:
        """Starts, and ramps until both are a third of the budget, on the first sample; where the
        budget hardly covers the starts, those on all samples as far as it goes.
        """
        finals = self._settings.finalists * (self._samples - 1)
        if len(self._starts) + finals > self._scores:
            return [self._whole(each) for each in self._starts]
        ramps = min(self._settings.ramps, max(0, self._scores // 3 - len(self._starts)))
        made = self._starts + [self._space.ramp(self._rng) for _ in range(ramps)]
        return [Trial(candidate, (0,)) for candidate in made]

    def tell(self, told: list[Told]) -> None:
        """Take in what was scored."""
        for each in told:
            for sample, value in each.fitness.items():
                self._seen[each.candidate, sample] = value
        self._generation += 1
        if self._generation > 1:
            self._fit()

    def _whole(self, candidate: Candidate) -> Trial:
        return Trial(candidate, tuple(range(self._samples)))

    def _fit(self) -> None:
        best = dict.fromkeys(range(self._samples), math.inf)
        for (_, sample), value in self._seen.items():
            best[sample] = min(best[sample], value)
        rows = []
        for (candidate, sample), value in self._seen.items():
            above = value - best[sample] if math.isfinite(value) else FAR
            least = best[sample] if math.isfinite(best[sample]) else 0.0
            rows.append((BEND * math.log1p(min(above, FAR) / BEND), least, sample, candidate))
        rows = sorted(rows, key=lambda row: row[0])[:MOST]
        values = np.array([above + least for above, least, _, _ in rows])
        samples = np.array([sample for _, _, sample, _ in rows])
        tune = len(self._seen) >= TUNE_EVERY * self._tuned_at
        if tune:
            self._tuned_at = len(self._seen)
        self._process.fit(self._points([row[3] for row in rows]), samples, values, tune)

    def _believed(self) -> list[Candidate]:
        """All candidates, the one that the process takes for the best first."""
        candidates = list(dict.fromkeys(candidate for candidate, _ in self._seen))
        mean, _ = self._process.predict(self._points(candidates))
        return [candidates[index] for index in np.argsort(mean, kind="stable")]

    def _steps(self, centre: Candidate, sample: int, most: int) -> list[Candidate]:
        """Candidates to score on a sample, drawn around `centre`, none of them scored there."""
        rng, middle = self._rng, self._space.encode([centre])[0]
        shape = (POOL, len(middle))
        reach = rng.choice(REACHES, size=(POOL, 1)) * self._settings.sigma
        chosen = rng.random(shape) < rng.choice(SHARES, size=(POOL, 1))
        points = middle + reach * rng.standard_normal(shape) * chosen
        pool = self._space.decode(points)
        if self._settings.ramps:
            pool += [self._space.ramp(rng) for _ in range(RAMPS)]
        pool = [each for each in dict.fromkeys(pool) if (each, sample) not in self._seen]
        mean, deviation = self._process.predict(self._points(pool))
        picked = []
        for _ in range(min(most, len(pool))):  # each with its own boldness
            index = int(np.argmin(mean - rng.exponential() * deviation))
            mean[index] = math.inf
            picked.append(pool[index])
        return picked

    def _points(self, candidates: list[Candidate]) -> np.ndarray:
        return self._space.encode(candidates) / self._settings.sigma
