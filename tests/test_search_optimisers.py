"""The optimisers: the constraint, the paper's evolution, and toys that each has to solve."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import OPTIMUM, PAIRS, TOY_ROPE, Toy, convex, lines_of, toy_search
from longrope.baselines import closed_form
from longrope.config.search import Bayesian, Cma, CriticalSpace, Evolution, PaperSpace
from longrope.errors import UserError
from longrope.search import bayesian
from longrope.search.evolution import EvolutionSearch
from longrope.search.optimisers import Told, make_optimiser
from longrope.search.space import Candidate, SearchSpace, first_space

N_HATS = [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256]  # Table 4 of the paper
PAPER, CRITICAL = PaperSpace(), CriticalSpace(kind="critical")
EVOLUTION = Evolution(name="evolution")
NUMBERS = {"name": "evolution", "population": 16, "mutations": 8, "crossovers": 8, "parents": 8}
SMALL = Evolution(**NUMBERS)
CMA, BAYESIAN = Cma(name="cma"), Bayesian(name="bayesian")
FEW = Bayesian(name="bayesian", ramps=6, check_every=4)
KINDS = {
    "evolution": SMALL,
    "evolution, racing": Evolution(**NUMBERS, racing=True),
    "cma": CMA,
    "bayesian": FEW,
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def space_of(settings=PAPER, attention: float | None = 1.0):
    return first_space(TOY_ROPE, 2048, settings, attention_factor=attention)


def flat(mu: int, n_hat: int = 0) -> Candidate:
    return Candidate(n_hat, (mu,) * PAIRS)


@pytest.fixture(autouse=True, scope="module")
def _small_pool():
    """The Bayesian search chooses from fewer steps: faster, the same otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bayesian, "POOL", 400)
        yield


def told(candidates, worth, samples: int = 1) -> list[Told]:
    """What a generation gives if each is worth the same on every sample."""
    return [
        Told(each, dict.fromkeys(range(samples), float(value)))
        for each, value in zip(candidates, worth, strict=True)
    ]


# --- the constraint -------------------------------------------------------------------------


@pytest.mark.parametrize("space", [PAPER, CRITICAL], ids=["paper", "critical"])
@pytest.mark.parametrize(
    "settings",
    [
        Evolution(name="evolution", population=500, mutations=500, crossovers=500, parents=50),
        Cma(name="cma", population=500, sigma=0.3),
        Bayesian(name="bayesian", batch=1000, sigma=0.3),
    ],
    ids=lambda each: each.name,
)
def test_the_constraint_holds_for_10000_proposals_under_noise(settings, space, monkeypatch):
    monkeypatch.setattr(bayesian, "POOL", 1500)
    space, rng = space_of(space, attention=None), np.random.default_rng(0)
    starts = [space.random(rng) for _ in range(5)]
    search = make_optimiser(settings, space, starts, 2, 10**6, rng)
    made = []
    while len(made) < 10_000:
        trials, results = search.ask(), []
        for trial in trials:
            made.append(trial.candidate)
            loss = convex(np.log(np.array(trial.candidate.mu) / 100), 0, 8) + rng.normal()
            results.append(Told(trial.candidate, dict.fromkeys(trial.samples, loss)))
        search.tell(results)
    mu = np.array([each.mu for each in made])
    free = np.arange(PAIRS) >= np.array([each.critical for each in made])[:, None]
    low, high = (800, 1600) if space.criticals != (0,) else (100, 1000)
    assert (np.diff(mu, axis=1) >= 0).all() and mu.min() >= 100
    assert mu[free].min() >= low and mu[free].max() <= high
    assert {each.n_hat for each in made} <= set(space.n_hats)
    assert {each.critical for each in made} <= set(space.criticals)
    assert all(90 <= each.attention <= 200 for each in made)
    for each in made if space.criticals != (0,) else []:
        critical = each.mu[each.critical] / 100
        derived = 100 * critical ** (np.arange(each.critical) / each.critical)
        assert np.abs(np.array(each.mu[: each.critical]) - derived).max() <= 0.5 + 1e-9
    assert len(set(made)) > 2000


# --- the paper's evolution ------------------------------------------------------------------


@st.composite
def candidates(draw):
    """Candidates of the 8x space whose factors do not fall."""
    mu = draw(st.lists(st.integers(100, 1000), min_size=PAIRS, max_size=PAIRS))
    return Candidate(draw(st.sampled_from(N_HATS)), tuple(sorted(mu)))


def evolution(seed: int = 0, space=PAPER, **changes) -> EvolutionSearch:
    settings = Evolution(name="evolution", **changes)
    return EvolutionSearch(settings, space_of(space), [], 1, np.random.default_rng(seed))


@given(candidates(), candidates(), st.integers(0, 2**32), st.floats(0, 1))
def test_mutants_and_children_keep_the_constraint(first, second, seed, chance):
    search = evolution(seed, mutate_probability=chance)
    for made in (search.mutate(first), search.cross(first, second)):
        assert list(made.mu) == sorted(made.mu)
        assert min(made.mu) >= 100 and max(made.mu) <= 1000
        assert made.n_hat in N_HATS


@given(candidates(), candidates(), st.integers(0, 2**32))
def test_a_child_has_every_number_from_one_of_its_parents(first, second, seed):
    child = evolution(seed).cross(first, second)
    assert all(value in each for value, *each in zip(child.mu, first.mu, second.mu, strict=True))
    assert child.n_hat in (first.n_hat, second.n_hat)


def test_a_child_takes_evenly_from_both_parents():
    search, low, high = evolution(), Candidate(0, (*range(100, 900, 100),)), None
    high = Candidate(8, tuple(each + 50 for each in low.mu))  # no choice breaks the constraint
    children = [search.cross(low, high) for _ in range(1000)]
    share = np.mean([np.array(each.mu) % 100 == 50 for each in children], axis=0)
    assert np.allclose(share, 0.5, atol=0.065)  # four standard errors
    assert np.mean([each.n_hat == 8 for each in children]) == pytest.approx(0.5, abs=0.065)


def test_a_crossover_has_two_different_parents_of_the_best(monkeypatch):
    search, pairs = evolution(parents=3, mutations=1, crossovers=60), []
    best = [Candidate(0, tuple(range(first, first + 800, 100))) for first in (100, 125, 150, 175)]
    search.tell(told(best, [4, 1, 3, 2]))  # two of them have 256 children
    cross = search.cross

    def spy(*parents):
        pairs.append(frozenset(parents))
        return cross(*parents)

    monkeypatch.setattr(search, "cross", spy)
    made = [trial.candidate for trial in search.ask()]
    assert len(made) == len(set(made)) == 61
    assert 60 <= len(pairs) < 90  # a child that was met before is another crossing
    assert set(pairs) == {frozenset(pair) for pair in itertools.combinations(best[1:], 2)}


def test_what_was_met_before_is_drawn_again_until_nothing_else_is_left():
    """Of one factor that may take 3 values, two candidates are new; then one is asked for again."""
    space = SearchSpace(TOY_ROPE, 2048, 8.0, 102, (1.0,), (1.0,), n_hats=(0,))
    settings = Evolution(name="evolution", population=4, parents=2, mutations=2, crossovers=1)
    start = Candidate(0, (100,))
    search = EvolutionSearch(settings, space, [start], 1, np.random.default_rng(0))
    made = [trial.candidate for trial in search.ask()]
    assert made[0] == start and {each.mu for each in made[:3]} == {(100,), (101,), (102,)}
    assert made[3] in made[:3]


def test_mutants_come_from_all_of_the_best_and_from_no_other():
    search = evolution(parents=3, mutations=60, crossovers=1, mutate_probability=0.0)
    search.tell(told([flat(mu) for mu in (400, 100, 300, 200)], [4, 1, 3, 2]))
    mutants = [trial.candidate for trial in search.ask()[:60]]
    assert set(mutants) == {flat(mu) for mu in (100, 200, 300)}


def test_the_best_of_all_generations_stay_parents_and_of_equals_the_first():
    search = evolution(parents=2, mutations=40, crossovers=1, mutate_probability=0.0)
    search.tell(told([flat(100), flat(200), flat(300)], [1, 5, 5]))
    search.tell(told([flat(400), flat(200)], [7, 5]))
    assert {trial.candidate for trial in search.ask()[:40]} == {flat(100), flat(200)}
    search.tell(told([flat(500)], [3]))
    assert {trial.candidate for trial in search.ask()[:40]} == {flat(100), flat(500)}


def test_without_the_constraint_mutants_and_children_may_fall():
    search, parent = evolution(space=PaperSpace(monotone=False)), flat(500)
    mutants = [search.mutate(parent) for _ in range(20)]
    children = [search.cross(*pair) for pair in itertools.pairwise(mutants)]
    for made in (mutants, children):
        assert any(list(each.mu) != sorted(each.mu) for each in made)
        assert all(100 <= value <= 1000 for each in made for value in each.mu)


def test_each_factor_changes_with_the_configured_probability():
    search, parent = evolution(space=PaperSpace(monotone=False)), flat(500)
    mutants = [search.mutate(parent) for _ in range(1000)]
    changed = np.mean([np.array(each.mu) != 500 for each in mutants], axis=0)
    assert np.allclose(changed, 0.3, atol=0.06)  # four standard errors
    assert np.mean([each.n_hat != 0 for each in mutants]) == pytest.approx(0.3 * 13 / 14, abs=0.06)


def test_a_mutated_factor_is_drawn_evenly_between_its_neighbours():
    search = evolution(mutate_probability=1.0, space=PaperSpace(vary=["lambda"]))
    parent = Candidate(0, (100, 200, 300, 400, 500, 600, 700, 800))
    last = np.array([search.mutate(parent).mu for _ in range(2000)])
    # From the first pair on, each between the new one before it and the old one after it.
    assert last[:, 0].min() == 100 and last[:, 0].max() == 200
    assert last[:, 0].mean() == pytest.approx(150, abs=4 * 29.2 / math.sqrt(2000))
    assert (last[:, 1] >= last[:, 0]).all() and last[:, 1].max() == 300
    assert last[:, -1].max() > 990


def test_in_the_critical_space_the_pair_is_inherited_and_those_below_follow_it():
    space, rng = space_of(CRITICAL), np.random.default_rng(0)
    search = EvolutionSearch(EVOLUTION, space, [], 1, rng)
    first, second = (space.snap([9] * PAIRS, 0, critical=pair) for pair in (2, 4))
    assert (first.critical, second.critical) == (2, 4)
    for made in [search.mutate(first) for _ in range(50)]:
        assert made.critical == 2
        assert made.mu[1] == round(100 * math.sqrt(made.mu[2] / 100))
    assert {search.cross(first, second).critical for _ in range(50)} == {2}
    assert {search.cross(second, first).critical for _ in range(50)} == {4}


def test_the_papers_numbers_ask_for_1344_candidates_in_41_generations(tmp_path):
    """Table 4 through the driver: 64 and 40 x 32, none twice, so generation 40 is the last."""
    found = toy_search(EVOLUTION, tmp_path / "trace.jsonl", 1344, Toy(samples=1))
    lines = lines_of(tmp_path / "trace.jsonl")
    assert found.candidates == len({(line["n_hat"], *line["mu"]) for line in lines}) == 1344
    sizes = [sum(line["generation"] == each for line in lines) for each in range(41)]
    assert sizes == [64] + [32] * 40 and lines[-1]["generation"] == 40
    assert [line["start"] for line in lines[:4]] == ["pi", "ntk", "yarn", None]  # then mutants


def test_more_starts_than_the_population_are_all_scored():
    space = space_of()
    starts = [space.snap([1 + each / 10] * PAIRS, 0) for each in range(7)]
    search = make_optimiser(
        Evolution(name="evolution", population=4, parents=2), space, starts, 1, 99,
        np.random.default_rng(0),
    )  # fmt: skip
    assert [trial.candidate for trial in search.ask()] == starts


def test_without_starts_the_first_population_is_drawn_evenly_from_the_space():
    space = space_of(PaperSpace(monotone=False))
    settings = Evolution(name="evolution", population=1000, starts=[])
    search = make_optimiser(settings, space, [], 1, 1000, np.random.default_rng(0))
    made = [trial.candidate for trial in search.ask()]
    assert len(made) == 1000
    mean = np.mean([each.mu for each in made], axis=0)
    assert np.allclose(mean, 550, atol=4 * 260 / math.sqrt(1000))
    assert {each.n_hat for each in made} == set(N_HATS)
    rising = make_optimiser(settings, space_of(), [], 1, 1000, np.random.default_rng(0)).ask()
    assert all(list(trial.candidate.mu) == sorted(trial.candidate.mu) for trial in rising)
    assert max(trial.candidate.mu[-1] for trial in rising) > 980


# --- toy objectives with known optima -------------------------------------------------------

LIKES = np.random.default_rng(7).normal(0, 0.1, (3, PAIRS))  # how each document bends the toy


def documents(logs: np.ndarray, sample: int, n_hat: int) -> float:
    """The convex loss, with an offset and a tilt for every document."""
    tilt = LIKES[sample] @ (logs - np.log(OPTIMUM))
    return convex(logs, sample, n_hat) + (0, 1.5, 3)[sample] + tilt


LEAST = 1.5 - LIKES.mean(0) @ LIKES.mean(0) / 4  # of its mean: at OPTIMUM moved by -tilt / 2


def basins(logs: np.ndarray, sample: int, n_hat: int) -> float:
    """Two wells in a plain at 4: one at PI, which ends at 1, and a wider one at OPTIMUM, at 0."""
    at_pi = 1 + ((logs - math.log(8)) ** 2).sum() / 0.25
    return min(at_pi, ((logs - np.log(OPTIMUM)) ** 2).sum() / 0.5, 4)


@pytest.mark.parametrize(
    ("kind", "scores", "excess"),
    [
        ("evolution", 360, 0.2),
        ("evolution, racing", 360, 0.15),
        ("cma", 360, 0.1),
        ("bayesian", 180, 0.08),
    ],
)
@pytest.mark.parametrize(("loss", "least"), [(convex, 0), (documents, LEAST)])
def test_so_many_scores_find_the_optimum_of_a_toy(kind, scores, excess, loss, least, tmp_path):
    found = toy_search(KINDS[kind], tmp_path / "trace.jsonl", scores, Toy(loss))
    logs = np.log(np.array(found.best.mu) / 100)
    own = np.mean([loss(logs, sample, found.best.n_hat) for sample in range(3)])
    assert found.score.fitness == pytest.approx(own)
    assert found.score.fitness - least < excess


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ramps_find_the_better_of_two_basins_from_a_start_in_the_other(seed, tmp_path, monkeypatch):
    options = {"scores": 120, "toy": Toy(basins), "forms": ["pi"], "seed": seed}
    with_ramps = Bayesian(name="bayesian", check_every=4)
    found = toy_search(with_ramps, tmp_path / "with", **options)
    assert lines_of(tmp_path / "with")[0]["fitness"] == 1 and found.score.fitness < 0.2
    without = Bayesian(name="bayesian", check_every=4, ramps=0)
    stuck = toy_search(without, tmp_path / "without", **options)
    assert stuck.score.fitness == 1 and stuck.scores == found.scores


@EVERY
def test_a_search_among_equals_keeps_the_first(kind, tmp_path):
    found = toy_search(KINDS[kind], tmp_path / "trace.jsonl", 90, Toy(lambda *_: 2.5))
    assert found.score.fitness == 2.5
    scored: dict[tuple, set[int]] = {}
    for line in lines_of(tmp_path / "trace.jsonl"):
        place = (line["n_hat"], *(round(100 * value) for value in line["mu"]))
        scored.setdefault(place, set()).add(line["sample"])
        if len(scored[place]) == 3:  # the first of which all is known
            break
    assert (found.best.n_hat, *found.best.mu) == place


@EVERY
@pytest.mark.parametrize("sample", [None, 1], ids=["on all documents", "on one"])
def test_a_region_without_a_finite_loss_is_left_and_never_wins(kind, sample, tmp_path):
    def walled(logs, each, n_hat):
        if (sample is None or each == sample) and logs[2] > math.log(1.79):
            return math.inf
        return convex(logs, each, n_hat)

    found = toy_search(KINDS[kind], tmp_path / "trace.jsonl", 180, Toy(walled))
    lines = lines_of(tmp_path / "trace.jsonl")
    walls = [line for line in lines if line["fitness"] is None]
    assert walls and all(line["mu"][2] > 1.79 for line in walls)
    assert found.best.mu[2] <= 179 and found.score.fitness < 0.6


@EVERY
def test_where_no_candidate_has_a_finite_loss_the_search_says_so(kind, tmp_path):
    with pytest.raises(UserError, match="toy: no candidate has a finite loss"):
        toy_search(KINDS[kind], tmp_path / "trace.jsonl", 90, Toy(lambda *_: math.inf))


@EVERY
def test_a_few_finite_losses_among_many_are_found(kind, tmp_path):
    """Only the best start and what lies below it is finite: fewer than an optimiser keeps."""
    wall = convex(np.log(closed_form("yarn", TOY_ROPE, 2048).lambda_), 0, 0) + 1e-3

    def narrow(logs, sample, n_hat):
        loss = convex(logs, sample, n_hat)
        return loss if loss <= wall else math.inf

    found = toy_search(KINDS[kind], tmp_path / "trace.jsonl", 150, Toy(narrow))
    assert found.score.fitness <= wall


@EVERY
def test_the_same_seed_asks_for_the_same_candidates(kind, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        toy_search(KINDS[kind], tmp_path / name, 80, seed=seed)
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")
    assert lines_of(tmp_path / "a")[20:] != lines_of(tmp_path / "c")[20:]


@EVERY
def test_a_search_uses_no_global_randomness_and_leaves_no_files(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = repr(np.random.get_state()), random.getstate(), torch.get_rng_state().tolist()
    toy_search(KINDS[kind], tmp_path / "trace.jsonl", 80)
    after = repr(np.random.get_state()), random.getstate(), torch.get_rng_state().tolist()
    assert before == after
    assert [path.name for path in tmp_path.iterdir()] == ["trace.jsonl"]
