"""Racing: what is dropped, when, and what the optimiser is told of it."""

import collections
import itertools
import math

import numpy as np
import pytest

from helpers import PAIRS, TOY_ROPE, convex
from longrope.baselines import closed_form
from longrope.config.search import Evolution, PaperSpace
from longrope.search.optimisers import Told, Trial, make_optimiser
from longrope.search.racing import ENOUGH, Racing
from longrope.search.space import Candidate, first_space

SMALL = {"name": "evolution", "population": 16, "mutations": 8, "crossovers": 8, "parents": 8}


def space_of():
    return first_space(TOY_ROPE, 2048, PaperSpace(), attention_factor=1.0)


def flat(mu: int, n_hat: int = 0) -> Candidate:
    return Candidate(n_hat, (mu,) * PAIRS)


class Generations:
    """An optimiser that asks for given generations and notes what it is told."""

    def __init__(self, *generations: list[Candidate], samples: int = 4) -> None:
        self._left, self._samples, self.told = list(generations), tuple(range(samples)), []

    def ask(self) -> list[Trial]:
        return [Trial(each, self._samples) for each in self._left.pop(0)]

    def tell(self, told: list[Told]) -> None:
        self.told.append(told)


def race(loss, *generations: list[Candidate], keep: int = 4, samples: int = 4):
    """Race through all generations; returns what was told, and every score asked for."""
    inner = Generations(*generations, samples=samples)
    racing, asked = Racing(inner, keep, samples), []
    while len(inner.told) < len(generations):
        trials = racing.ask()
        asked += [(trial.candidate, sample) for trial in trials for sample in trial.samples]
        racing.tell(
            [
                Told(
                    each.candidate,
                    {sample: loss(each.candidate, sample) for sample in each.samples},
                )
                for each in trials
            ]
        )
    return inner.told, asked


def additive(candidate: Candidate, sample: int) -> float:
    """Worth and document add up: what one document tells is exact."""
    return candidate.mu[0] / 100 + 10.0 * sample


FIRST = [flat(200 + 10 * number) for number in range(ENOUGH)]  # worth 2.0, 2.1, ..., 2.7
SECOND = [flat(190), flat(400), flat(225), flat(500)]


def test_without_interactions_one_document_drops_what_is_worse_than_the_bar():
    told, asked = race(additive, FIRST, SECOND)  # the bar is the fourth best, 2.3
    assert asked[: 4 * ENOUGH] == [(each, sample) for each in FIRST for sample in range(4)]
    scores = {each: sum(candidate == each for candidate, _ in asked) for each in SECOND}
    assert scores == {flat(190): 4, flat(400): 1, flat(225): 4, flat(500): 1}
    assert [each.candidate for each in told[1]] == SECOND


def test_what_is_told_of_a_dropped_candidate_is_what_it_is_worth_where_nothing_interacts():
    told, _ = race(additive, FIRST, SECOND)
    for each in told[1]:
        assert sorted(each.fitness) == [0, 1, 2, 3]
        assert each.mean == pytest.approx(each.candidate.mu[0] / 100 + 15)


def seesaw(candidate: Candidate, sample: int) -> float:
    """Every second candidate gains 20 on a document where the others lose 20."""
    return additive(candidate, sample) + 20 * (-1) ** (candidate.mu[0] // 10 + sample)


def test_with_large_interactions_nothing_is_dropped():
    _, asked = race(seesaw, FIRST, SECOND)
    assert len(asked) == len(set(asked)) == 4 * (ENOUGH + len(SECOND))


def test_the_more_documents_are_left_the_more_a_candidate_may_be_behind():
    """What is left without candidate and document is 20 everywhere: v = 400 * 32 / (7 * 3) = 610.

    2.33 sqrt(2 v (1/n - 1/4)) = 70, 41 and 23 after 1, 2 and 3 of 4 documents.
    """
    behind = {flat(230 + 100 * each): each for each in (20, 30, 50, 80)}  # as the bar but for that
    _, asked = race(seesaw, FIRST, list(behind))
    scores = {
        worse: sum(each == candidate for each, _ in asked) for candidate, worse in behind.items()
    }
    assert scores == {20: 4, 30: 3, 50: 2, 80: 1}


def scores_in_a_race(field: int, seed: int, *, at_the_bar: bool) -> list[tuple[float, int]]:
    """Race so many candidates of pure noise, moved to the bar if asked: how far each is behind the
    bar on all four documents, and on how many it was scored.
    """
    field = [flat(300 + number) for number in range(field)]
    noise = np.random.default_rng(seed).normal(0, 1, (1000, 4))
    bar = sorted(noise[[each.mu[0] for each in FIRST]].mean(1))[3]
    if at_the_bar:
        noise[300:] += bar - noise[300:].mean(1, keepdims=True)
    _, asked = race(lambda each, sample: noise[each.mu[0], sample] + 10.0 * sample, FIRST, field)
    counts = collections.Counter(candidate for candidate, _ in asked)
    return [(noise[each.mu[0]].mean() - bar, counts[each]) for each in field]


def test_of_candidates_at_the_bar_one_in_a_hundred_is_dropped_a_document_and_3_in_all():
    """A simulation of the rule with 40,000 races says 1.2, 1.0 and 1.0%, 3.1% in all."""
    raced = [each for seed in range(600) for each in scores_in_a_race(10, seed, at_the_bar=True)]
    dropped = [sum(scores == done for _, scores in raced) / len(raced) for done in (1, 2, 3)]
    assert all(0.005 < share < 0.018 for share in dropped), dropped
    assert 0.022 < sum(dropped) < 0.042


def test_of_candidates_better_than_the_bar_fewer_are_dropped():
    raced = [each for seed in range(20) for each in scores_in_a_race(100, seed, at_the_bar=False)]
    better = [scores for behind, scores in raced if behind <= 0]
    assert len(better) > 500
    assert np.mean([scores < 4 for scores in better]) < 0.02


def test_nothing_is_dropped_before_as_many_as_are_kept_are_known():
    _, asked = race(additive, FIRST, SECOND, SECOND[:1], keep=ENOUGH + 1)
    assert len(asked) == 4 * (ENOUGH + len(SECOND)) + 4


def test_a_candidate_that_turns_bad_late_is_dropped_late():
    def late(candidate, sample):
        return additive(candidate, sample) + (9 if candidate == flat(190) and sample == 2 else 0)

    told, asked = race(late, FIRST, SECOND)
    assert sum(candidate == flat(190) for candidate, _ in asked) == 3
    assert told[1][0].mean == pytest.approx(1.9 + 15 + 9 * (1 + 1 / 3) / 4, rel=0.02)


def test_racing_chooses_the_same_parents_with_fewer_scores():
    """Two evolutions from one seed, one of which races: the same candidates, fewer scores."""
    generations = {}
    interactions = np.random.default_rng(0).normal(0, 0.002, (5, PAIRS))
    for racing in (False, True):
        settings = Evolution(**SMALL, racing=racing)
        space, rng = space_of(), np.random.default_rng(3)
        starts = [space.candidate(closed_form(form, TOY_ROPE, 2048)) for form in ("pi", "ntk")]
        search = make_optimiser(settings, space, starts, 5, 10**6, rng)
        asked, count = [], 0
        inner = search._optimiser if racing else search
        told, ask = [], inner.ask
        inner.ask = lambda ask=ask, told=told: told.append(ask()) or told[-1]
        while len(told) < 12:
            asked = search.ask()
            count += sum(len(trial.samples) for trial in asked)
            search.tell(
                [
                    Told(
                        each.candidate,
                        {
                            sample: sample
                            + convex(logs, sample, each.candidate.n_hat)
                            + interactions[sample] @ logs
                            for sample in each.samples
                        },
                    )
                    for each in asked
                    for logs in [np.log(np.array(each.candidate.mu) / 100)]
                ]
            )
        generations[racing] = [[trial.candidate for trial in trials] for trials in told], count
    assert generations[True][0] == generations[False][0]
    assert generations[True][1] < 0.7 * generations[False][1]


def test_racing_tells_no_nan_where_fewer_are_finite_than_are_kept():
    def walled(candidate, sample):
        return additive(candidate, sample) if candidate.mu[0] <= 210 else math.inf

    told, _ = race(walled, FIRST, SECOND, SECOND[:2])
    values = [value for each in itertools.chain(*told) for value in each.fitness.values()]
    assert not any(map(math.isnan, values))
    worth = {each.candidate: each.mean for each in told[1]}
    assert worth[flat(190)] == pytest.approx(16.9) and worth[flat(400)] == math.inf


def test_a_generation_that_asks_for_one_candidate_twice_is_told_of_it_twice():
    told, _ = race(additive, FIRST, [flat(190), flat(190), flat(400)])
    assert [each.candidate for each in told[1]] == [flat(190), flat(190), flat(400)]
    assert told[1][0].mean == told[1][1].mean == pytest.approx(16.9)
