"""What a search may propose: grid, bounds, the two spaces, and their vectors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import OPTIMUM, PAIRS, TOY_ROPE
from longrope.baselines import closed_form
from longrope.config.search import CriticalSpace, PaperSpace
from longrope.factors import RescaleFactors, Rope
from longrope.search.space import Candidate, first_space, recovery_space, second_space

N_HATS = [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256]  # Table 4 of the paper
LLAMA2 = Rope("llama2-7b", 10000.0, 128, 4096, "?")
LLAMA3 = Rope("llama3-8b", 500000.0, 128, 8192, "?")
TUNED = RescaleFactors(TOY_ROPE, 2048, "search", tuple(map(float, OPTIMUM)), 4, 1.2)
PAPER = PaperSpace()
SPACES = {
    "paper": PAPER,
    "falling": PaperSpace(monotone=False),
    "lambda alone": PaperSpace(vary=["lambda"]),
    "critical": CriticalSpace(kind="critical"),
    "critical, n_hat": CriticalSpace(kind="critical", vary=["lambda", "n_hat"]),
    "theoretical": CriticalSpace(kind="critical", pair="theoretical"),
    "pair 3": CriticalSpace(kind="critical", pair=3),
}
CRITICAL = [name for name, each in SPACES.items() if each.kind == "critical"]
numbers = st.lists(st.floats(0.1, 100), min_size=PAIRS, max_size=PAIRS)


def space_of(name: str, window: int = 2048, attention: float | None = 1.0):
    return first_space(TOY_ROPE, window, SPACES[name], attention_factor=attention)


def critical_pair(rope: Rope) -> int:
    """The one pair of a theoretical critical space."""
    space = first_space(rope, 131072, SPACES["theoretical"], attention_factor=1.0)
    (pair,) = space.criticals
    return pair


# --- points of the grid ---------------------------------------------------------------------


@given(numbers, st.integers(0, 10**6), st.integers(257, 256 * 64))
def test_whatever_is_snapped_is_on_the_grid_in_bounds_and_does_not_fall(mu, n_hat, window):
    space = space_of("paper", window)
    factors = space.factors(space.snap(mu, n_hat), "search", {})
    hundredths = np.array(factors.lambda_) * 100
    assert np.allclose(hundredths, np.rint(hundredths), atol=1e-9)
    assert min(factors.lambda_) >= 1
    assert max(factors.lambda_) <= 1.25 * window / 256 + 0.005
    assert list(factors.lambda_) == sorted(factors.lambda_)
    assert factors.n_hat in N_HATS


def test_what_is_allowed_already_is_snapped_to_the_nearest_point_of_the_grid():
    mu = [1, 1.006, 1.5, 2.504, 3.333, 4, 4.999, 9.994]
    assert space_of("paper").snap(mu, 20).mu == (100, 101, 150, 250, 333, 400, 500, 999)
    assert [space_of("paper").snap(mu, n_hat).n_hat for n_hat in (0, 3, 25, 90)] == [0, 2, 24, 64]


def test_without_the_constraint_factors_may_fall():
    falling = space_of("falling").snap(range(PAIRS, 0, -1), 0)
    assert falling.mu == tuple(range(100 * PAIRS, 0, -100))


def test_n_hat_that_is_not_varied_is_0():
    assert space_of("lambda alone").snap([1.5] * PAIRS, 64).n_hat == 0
    rng = np.random.default_rng(0)
    assert {space_of("lambda alone").random(rng).n_hat for _ in range(50)} == {0}
    assert len({space_of("paper").random(rng).n_hat for _ in range(300)}) == len(N_HATS)


# --- what is multiplied ---------------------------------------------------------------------


def test_a_second_search_multiplies_the_tuned_factors():
    space = second_space(TUNED, 4096, PAPER, attention_factor=1.0)
    assert space.factors(space.snap([1] * PAIRS, 0), "search", {}).lambda_ == TUNED.lambda_
    widest = space.factors(space.snap([99] * PAIRS, 0), "search", {})
    assert np.allclose(widest.lambda_, 1.25 * 2 * np.array(OPTIMUM))


def test_a_second_search_keeps_a_pair_that_stands_still():
    still = RescaleFactors(TOY_ROPE, 2048, "cope", (*map(float, OPTIMUM[:-1]), math.inf))
    space = second_space(still, 4096, PAPER, attention_factor=1.0)
    candidate = space.candidate(closed_form("pi", TOY_ROPE, 4096, on=still))
    assert candidate.mu[:-1] == (200,) * (PAIRS - 1)
    assert space.factors(candidate, "search", {}).lambda_[-1] == math.inf


def test_a_recovery_is_absolute_and_reaches_up_to_the_largest_tuned_factor():
    still = RescaleFactors(TOY_ROPE, 2048, "search", (*map(float, OPTIMUM[:-1]), math.inf))
    space = recovery_space(still, 512, PAPER, attention_factor=1.0)
    assert space.factors(space.snap([1] * PAIRS, 0), "recovery", {}).lambda_ == (1.0,) * PAIRS
    widest = space.factors(space.snap([99] * PAIRS, 0), "recovery", {})
    assert widest.lambda_ == (7.0,) * PAIRS


def test_a_searched_attention_factor_multiplies_the_tuned_one():
    searched = {"attention_factor": None, "attention_base": TUNED.attention_factor}
    space = second_space(TUNED, 4096, PAPER, **searched)
    yarn = closed_form("yarn", TOY_ROPE, 4096, on=TUNED)  # 1.2 (0.1 ln 2 + 1)
    candidate = space.candidate(yarn)
    assert candidate.attention == 107
    assert space.factors(candidate, "", {}).attention_factor == pytest.approx(1.2 * 1.07)
    assert [space.snap([1] * PAIRS, 0, each).attention for each in (0.1, 9)] == [90, 200]


def test_an_attention_factor_that_is_not_searched_is_no_part_of_a_candidate():
    space = space_of("paper", attention=1.1)
    assert space.candidate(closed_form("yarn", TOY_ROPE, 2048)).attention is None
    assert space.factors(space.snap([1] * PAIRS, 0), "", {}).attention_factor == 1.1


# --- LongRoPE2's space ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rope", "pair"),
    [
        (LLAMA2, 46),  # ceil(64 ln(4096 / 2 pi) / ln 10000) = ceil(45.03)
        (LLAMA3, 35),  # ceil(64 ln(8192 / 2 pi) / ln 500000) = ceil(34.98)
        (TOY_ROPE, 4),  # ceil(8 ln(256 / 2 pi) / ln 10000) = ceil(3.22)
    ],
    ids=lambda each: getattr(each, "model", None),
)
def test_the_theoretical_critical_pair_of_known_models(rope, pair):
    assert critical_pair(rope) == pair


def test_the_critical_pairs_that_are_searched_turn_at_most_ten_times():
    # 4096 / (2 pi 10000^(i/64)) = 10.5 at i = 29 is more than ten turns, 9.1 at i = 30 is not.
    space = first_space(LLAMA2, 131072, SPACES["critical"], attention_factor=1.0)
    assert space.criticals == tuple(range(30, 47))


def test_in_tuned_frequencies_the_critical_pair_is_that_of_the_tuned_window():
    """Tuned at 8x by 8 for every pair: the same turns in the longer window, so the same pair."""
    tuned = closed_form("pi", TOY_ROPE, 2048)
    space = second_space(tuned, 4096, SPACES["theoretical"], attention_factor=1.0)
    assert space.criticals == (critical_pair(TOY_ROPE),)


@pytest.mark.parametrize("name", CRITICAL)
@given(mu=numbers, window=st.integers(257, 256 * 64), wanted=st.integers(0, PAIRS))
def test_pairs_from_the_critical_one_are_in_s_to_2_s_and_those_below_derived(
    name, mu, window, wanted
):
    space, s = space_of(name, window), window / 256
    found = space.snap(mu, 0, critical=wanted)
    above, below = np.array(found.mu[found.critical :]), np.array(found.mu[: found.critical])
    assert 1 <= found.critical <= critical_pair(TOY_ROPE)
    assert above.min() >= 100 * s - 0.5 and above.max() <= 200 * s + 0.5
    assert list(found.mu) == sorted(found.mu)
    derived = (above[0] / 100) ** (np.arange(found.critical) / found.critical)  # mu_c^(i/c)
    assert np.abs(below - 100 * derived).max() <= 0.5 + 1e-9


# --- vectors --------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", [1.0, None], ids=["", "attention"])
@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=30)
@given(data=st.data(), window=st.sampled_from([320, 512, 2048, 16384]))
def test_every_candidate_comes_back_from_its_vector(name, attention, data, window):
    space = space_of(name, window, attention)
    low, high = 1.0, 2.2 * window / 256
    mu = data.draw(st.lists(st.floats(low, high), min_size=PAIRS, max_size=PAIRS))
    mu = mu if name == "falling" else sorted(mu)
    rest = [st.integers(0, 300), st.floats(0.5, 2), st.integers(0, PAIRS)]
    candidate = space.snap(mu, *map(data.draw, rest))
    assert space.decode(space.encode([candidate])) == [candidate]


def test_at_a_ratio_off_the_grid_a_candidate_comes_back_as_well():
    space = space_of("theoretical", 257)  # s = 1.0039, whose nearest point is 1.00
    candidate = space.snap([1] * (PAIRS - 1) + [2], 0)
    assert space.decode(space.encode([candidate])) == [candidate]


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), scale=st.floats(0.01, 100))
def test_any_vector_means_a_candidate_that_keeps_the_constraint(name, seed, scale):
    space = space_of(name, attention=None)
    size = space.encode([space.random(np.random.default_rng(0))]).shape[1]
    points = scale * np.random.default_rng(seed).standard_normal((5, size))
    for point, found in zip(points, space.decode(points), strict=True):
        low, high = (100, 1000) if not found.critical else (800, 1600)
        assert low <= min(found.mu[found.critical :]) <= max(found.mu) <= high
        assert name == "falling" or list(found.mu) == sorted(found.mu)
        assert found.n_hat in N_HATS and 90 <= found.attention <= 200
        assert space.decode(point[None]) == [found]  # whatever else is decoded with it


def test_a_small_step_in_the_vector_is_a_small_change_of_every_later_factor():
    """A step of one pair multiplies all factors from that pair on: exp(0.1) here."""
    space = space_of("paper")
    before = Candidate(0, (100, 200, 300, 400, 500, 600, 700, 800))
    points = space.encode([before])
    points[0, 3] += 0.1
    after = space.decode(points)[0].mu
    assert after == (100, 200, 300, *(round(100 * each * math.exp(0.1)) for each in range(4, 9)))


# --- random candidates ----------------------------------------------------------------------


def test_a_random_ramp_leaves_fast_pairs_and_stretches_slow_ones_by_about_s():
    space, rng = (
        first_space(LLAMA2, 8 * 4096, PAPER, attention_factor=None),
        np.random.default_rng(0),
    )
    turns = 4096 / (2 * math.pi * 10000 ** (np.arange(64) / 64))
    ramps = [space.ramp(rng) for _ in range(200)]
    mu = np.array([each.mu for each in ramps]) / 100
    assert (mu[:, turns > 40] == 1).all()
    assert mu[:, turns < 0.25].min() > 8**0.85 - 0.01 and mu.max() < 8**1.1 + 0.01
    assert (np.diff(mu, axis=1) >= 0).all()
    assert len(set(ramps)) == 200
    middle = mu[:, np.flatnonzero(turns < 4)[0]]
    assert middle.min() < 1.2 and middle.max() > 3.5  # they do differ, where it matters


def test_random_candidates_reach_every_part_of_the_space():
    space, rng = space_of("falling"), np.random.default_rng(0)
    mu = np.array([space.random(rng).mu for _ in range(2000)])
    assert mu.min(axis=0).max() < 110 and mu.max(axis=0).min() > 990
    assert np.allclose(mu.mean(axis=0), 550, atol=4 * 260 / math.sqrt(2000))


def test_random_candidates_of_the_critical_space_try_all_its_pairs():
    space, rng = space_of("critical", attention=None), np.random.default_rng(0)
    assert space.criticals == (2, 3, 4)
    assert {space.random(rng).critical for _ in range(100)} == set(space.criticals)
