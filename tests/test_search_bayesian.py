"""The Gaussian process, and the search that it leads."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import gamma, kv

from helpers import PAIRS, TOY_ROPE, Toy, convex, lines_of, toy_search
from longrope.config.search import Bayesian, PaperSpace
from longrope.search import bayesian
from longrope.search.bayesian import BayesianSearch
from longrope.search.gaussian import JITTER, OFFSET, GaussianProcess
from longrope.search.optimisers import Told, Trial
from longrope.search.space import Candidate, first_space


@pytest.fixture(autouse=True, scope="module")
def _small_pool():
    """The Bayesian search chooses from fewer steps: faster, the same otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bayesian, "POOL", 400)
        yield


def space_of():
    return first_space(TOY_ROPE, 2048, PaperSpace(), attention_factor=1.0)


def flat(mu: int, n_hat: int = 0) -> Candidate:
    return Candidate(n_hat, (mu,) * PAIRS)


# --- the Gaussian process -------------------------------------------------------------------


def matern(distance: np.ndarray, nu: float = 2.5) -> np.ndarray:
    """The Matern kernel by its definition (Rasmussen & Williams 2006, eq. 4.14)."""
    z = np.sqrt(2 * nu) * np.maximum(distance, 1e-10)
    return 2 ** (1 - nu) / gamma(nu) * z**nu * kv(nu, z)


def test_a_gaussian_process_predicts_what_linear_algebra_does():
    """f and its variance from the joint normal of f + g_j + o_j + noise, by a dense inverse."""
    rng = np.random.default_rng(0)
    points, new = rng.normal(size=(30, 4)), rng.normal(size=(10, 4))
    samples, values = rng.integers(0, 3, 30), rng.normal(5, 2, 30)
    process = GaussianProcess(4, 1.5)
    process.fit(points, samples, values, tune=False)
    mean, deviation = process.predict(new)

    def between(one, other):
        return matern(np.linalg.norm((one[:, None] - other[None]) / 1.5, axis=-1))

    same = samples[:, None] == samples
    noise = (0.02**2 + JITTER) * np.eye(30)
    seen = between(points, points) * (1 + 0.3**2 * same) + OFFSET * same + noise
    inverse, cross = np.linalg.inv(seen), between(new, points)
    scale = values.std()
    expected = cross @ inverse @ (values - np.median(values))
    variance = 1 - np.einsum("mn,nk,mk->m", cross, inverse, cross)
    assert np.allclose(mean - mean[0], expected - expected[0], atol=1e-5)
    assert np.allclose(deviation, np.sqrt(variance) * scale, atol=1e-5)


def test_a_gaussian_process_compares_candidates_that_were_scored_on_different_documents():
    """Each on one document; the offsets, 0, 4 and 8, are far larger than the differences."""
    rng = np.random.default_rng(1)
    points, samples = rng.uniform(-2, 2, (60, 2)), np.arange(60) % 3
    worth = (points**2).sum(1)
    process = GaussianProcess(2, 1.0)
    process.fit(points, samples, worth + 4.0 * samples, tune=True)
    good, bad = np.array([[0.1, 0.1]]), np.array([[1.8, 1.8]])
    better, worse = int(worth[samples == 2].argmin()), int(worth[samples == 0].argmax())
    seen = points[[np.flatnonzero(samples == 2)[better], np.flatnonzero(samples == 0)[worse]]]
    mean, _ = process.predict(np.concatenate([seen, good, bad]))
    assert mean[0] < mean[1] and mean[2] < mean[3]
    new = rng.uniform(-2, 2, (200, 2))
    found, true = process.predict(new)[0], (new**2).sum(1)
    assert np.corrcoef(found, true)[0, 1] > 0.98
    assert (found - found.mean()).std() == pytest.approx((true - true.mean()).std(), rel=0.15)


def test_tuning_finds_out_which_coordinate_matters():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(80, 2))
    process = GaussianProcess(2, 1.0)
    process.fit(points, np.zeros(80, int), np.sin(2 * points[:, 0]), tune=True)
    near = np.array([[0.0, 0.0], [0.7, 0.0], [0.0, 0.7]])
    mean, _ = process.predict(near)
    assert abs(mean[1] - mean[0] - math.sin(1.4)) < 0.1
    assert abs(mean[2] - mean[0]) < 0.1


# --- the Bayesian search --------------------------------------------------------------------


def ladder(count: int) -> list[Candidate]:
    return [flat(100 + 50 * number) for number in range(count)]


def test_a_bayesian_search_scores_on_one_document_and_the_best_of_them_on_all():
    settings = Bayesian(name="bayesian", ramps=2, finalists=2)
    starts = ladder(4)
    search = BayesianSearch(settings, space_of(), starts, 3, 60, np.random.default_rng(0))
    first = search.ask()
    assert [trial.candidate for trial in first[:4]] == starts and len(first) == 6
    assert {trial.samples for trial in first} == {(0,)}
    search.tell(
        [
            Told(each.candidate, {0: loss})
            for each, loss in zip(first, [5, 4, 1, 3, 2, 6], strict=True)
        ]
    )
    assert search.ask() == [
        Trial(first[2].candidate, (0, 1, 2)),
        Trial(first[4].candidate, (0, 1, 2)),
    ]


def test_a_bayesian_search_goes_through_the_documents_and_ends_with_finalists(tmp_path):
    settings = Bayesian(name="bayesian", ramps=6, check_every=10**6)

    def offset(logs, sample, n_hat):
        return convex(logs, sample, n_hat) + 1.5 * sample

    found = toy_search(settings, tmp_path / "trace.jsonl", 150, Toy(offset))
    lines = lines_of(tmp_path / "trace.jsonl")
    middle = [line for line in lines if 2 <= line["generation"] < lines[-1]["generation"] - 3]
    assert {line["sample"] for line in middle} == {0, 1, 2}
    per_generation = [
        {line["sample"] for line in group}
        for _, group in itertools.groupby(middle, key=lambda line: line["generation"])
    ]
    assert all(len(samples) == 1 for samples in per_generation)
    place = [line["mu"] for line in lines].index([value / 100 for value in found.best.mu])
    assert place > 9  # neither a start nor a ramp
    scored: dict[tuple, set[int]] = {}
    for line in lines:
        scored.setdefault((line["n_hat"], *line["mu"]), set()).add(line["sample"])
    # Three of the first ones and three at the end; more only where that cost less than two each.
    assert 6 <= list(map(len, scored.values())).count(3) <= 9
    assert len(lines) == 150


def test_a_document_without_any_finite_loss_leaves_the_belief_in_the_others():
    starts = ladder(6)
    settings = Bayesian(name="bayesian", ramps=0, finalists=1)
    search = BayesianSearch(settings, space_of(), starts, 2, 8, np.random.default_rng(0))
    search.ask()
    search.tell([Told(each, {0: 5.0 - number}) for number, each in enumerate(starts)])
    assert search.ask() == [Trial(starts[5], (0, 1))]
    search.tell([Told(starts[5], {0: 0.0, 1: math.inf})])
    assert search.ask() == [Trial(starts[4], (0, 1))]  # the finalist, for what is left
