"""The search: its space, its optimisers, a driver that can be killed, and the whole stage."""

import itertools
import json
import math
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import PAIRS, WINDOW, make_checkpoint, make_tokens, make_tuned
from longrope.baselines import closed_form
from longrope.config import Cma, Evolution, SearchSettings
from longrope.corpus import TokenSplit
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, read_factors, write_factors
from longrope.models import load_model, load_tokenizer, read_record
from longrope.passkey import PasskeyWriter
from longrope.search.driver import run_search
from longrope.search.evolution import EvolutionSearch
from longrope.search.optimisers import make_optimiser
from longrope.search.scoring import LossScorer, Score
from longrope.search.space import Candidate, first_space, recovery_space, second_space
from longrope.search.stage import search_factors

N_HATS = [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256]  # Table 4 of the paper
ROPE = Rope("toy", 10000.0, 2 * PAIRS, 256, "?")
OPTIMUM = np.array([1, 1, 1.3, 2, 3.5, 6, 7, 8.5])  # of the toy objective: lambda, for 8x
EVOLUTION = Evolution(name="evolution")
SMALL = Evolution(name="evolution", population=16, mutations=8, crossovers=8, parents=8)
CMA = Cma(name="cma")
BOTH = pytest.mark.parametrize("settings", [SMALL, CMA], ids=["evolution", "cma"])


class Killed(Exception):
    """What a kill looks like from inside."""


class Toy:
    """A convex objective with its optimum at OPTIMUM and n_hat = 8; may die before a score."""

    tokens = 1

    def __init__(self, dies_after: float = math.inf) -> None:
        self.scored, self.dies_after = [], dies_after

    def score(self, factors) -> float:
        if len(self.scored) == self.dies_after:
            raise Killed
        self.scored.append((factors.n_hat, factors.lambda_))
        distance = np.log(factors.lambda_) - np.log(OPTIMUM)
        loss = float(distance @ distance) + 0.001 * abs(factors.n_hat - 8)
        return Score(fitness=loss, loss=loss)


def toy_search(settings, trace, evaluations=120, scorer=None, seed=1, say=print):
    """A search from PI, NTK and YaRN on the toy objective, 8x."""
    space = first_space(ROPE, 2048, getattr(settings, "monotone", True))
    starts = {
        space.candidate(closed_form(form, ROPE, 2048)): form for form in ("pi", "ntk", "yarn")
    }
    optimiser = make_optimiser(settings, space, list(starts), np.random.default_rng(seed))
    return run_search(
        optimiser, space, starts, scorer or Toy(), evaluations, 1.0, trace, "toy", say
    )


def lines_of(trace) -> list[dict]:
    """A trace but for how long each score took."""
    return [json.loads(line) | {"seconds": 0} for line in trace.read_text().splitlines()]


# --- the space ------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0.1, 100), min_size=PAIRS, max_size=PAIRS),
    st.integers(0, 10**6),
    st.integers(257, 256 * 64),
)
def test_whatever_is_snapped_is_on_the_grid_in_bounds_and_does_not_fall(mu, n_hat, window):
    space = first_space(ROPE, window)
    factors = space.factors(space.snap(mu, n_hat), "search", 1.0, {})
    hundredths = np.array(factors.lambda_) * 100
    assert np.allclose(hundredths, np.rint(hundredths), atol=1e-9)
    assert min(factors.lambda_) >= 1
    assert max(factors.lambda_) <= 1.25 * window / 256 + 0.005
    assert list(factors.lambda_) == sorted(factors.lambda_)
    assert factors.n_hat in N_HATS


def test_what_is_allowed_already_is_snapped_to_the_nearest_point_of_the_grid():
    mu = [1, 1.006, 1.5, 2.504, 3.333, 4, 4.999, 9.994]
    snapped = first_space(ROPE, 2048).snap(mu, 20)
    assert snapped == Candidate(20, (100, 101, 150, 250, 333, 400, 500, 999))


def test_without_the_constraint_factors_may_fall():
    falling = first_space(ROPE, 2048, monotone=False).snap(range(PAIRS, 0, -1), 0)
    assert falling.mu == tuple(range(100 * PAIRS, 0, -100))


def test_a_second_search_multiplies_the_tuned_factors():
    tuned = RescaleFactors(ROPE, 2048, "search", tuple(OPTIMUM))
    space = second_space(tuned, 4096)
    assert space.factors(space.snap([1] * PAIRS, 0), "search", 1.0, {}).lambda_ == tuned.lambda_
    widest = space.factors(space.snap([99] * PAIRS, 0), "search", 1.0, {})
    assert np.allclose(widest.lambda_, 1.25 * 2 * OPTIMUM)


def test_a_recovery_is_absolute_and_reaches_up_to_the_largest_tuned_factor():
    tuned = RescaleFactors(ROPE, 2048, "search", (*OPTIMUM[:-1], math.inf))
    space = recovery_space(tuned, 512)
    assert space.factors(space.snap([1] * PAIRS, 0), "recovery", 1.0, {}).lambda_ == (1.0,) * PAIRS
    widest = space.factors(space.snap([99] * PAIRS, 0), "recovery", 1.0, {})
    assert widest.lambda_ == (7.0,) * PAIRS


# --- the optimisers -------------------------------------------------------------------------


@st.composite
def candidates(draw):
    """Candidates of the 8x space whose factors do not fall."""
    mu = draw(st.lists(st.integers(100, 1000), min_size=PAIRS, max_size=PAIRS))
    return Candidate(draw(st.sampled_from(N_HATS)), tuple(sorted(mu)))


def evolution(seed: int = 0, **changes) -> EvolutionSearch:
    settings = EVOLUTION.model_copy(update=changes)
    space = first_space(ROPE, 2048, settings.monotone)
    return EvolutionSearch(settings, space, [], np.random.default_rng(seed))


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


def test_a_crossover_has_two_different_parents(monkeypatch):
    search, pairs = evolution(parents=2, mutations=1, crossovers=30), []
    search.tell([(Candidate(0, (mu,) * PAIRS), float(mu)) for mu in (100, 200, 300)])
    monkeypatch.setattr(search, "cross", lambda *parents: pairs.append({p.mu[0] for p in parents}))
    search.ask()
    assert pairs == [{100, 200}] * 30  # and they are the best two


def test_without_the_constraint_mutants_and_children_may_fall():
    search, parent = evolution(monotone=False), Candidate(0, (500,) * PAIRS)
    mutants = [search.mutate(parent) for _ in range(20)]
    children = [search.cross(*pair) for pair in itertools.pairwise(mutants)]
    for made in (mutants, children):
        assert any(list(each.mu) != sorted(each.mu) for each in made)
        assert all(100 <= value <= 1000 for each in made for value in each.mu)


def test_each_factor_changes_with_the_configured_probability():
    search, parent = evolution(monotone=False), Candidate(0, (500,) * PAIRS)
    mutants = [search.mutate(parent) for _ in range(1000)]
    changed = np.mean([np.array(each.mu) != 500 for each in mutants], axis=0)
    assert np.allclose(changed, 0.3, atol=0.06)  # four standard errors
    assert np.mean([each.n_hat != 0 for each in mutants]) == pytest.approx(0.3 * 13 / 14, abs=0.06)


def test_the_papers_numbers_ask_for_1344_candidates_in_41_generations():
    space = first_space(ROPE, 2048)
    starts = [space.candidate(closed_form(form, ROPE, 2048)) for form in EVOLUTION.starts]
    search = make_optimiser(EVOLUTION, space, starts, np.random.default_rng(0))
    sizes, toy = [], Toy()
    for _ in range(41):
        asked = search.ask()
        sizes.append(len(asked))
        search.tell([(each, toy.score(space.factors(each, "", 1.0, {})).fitness) for each in asked])
    assert sizes == [64] + [32] * 40 and sum(sizes) == 1344


@BOTH
def test_an_optimiser_comes_much_closer_to_the_optimum_than_its_starts(settings, tmp_path):
    found = toy_search(settings, tmp_path / "trace.jsonl", 400)
    losses = [line["loss"] for line in lines_of(tmp_path / "trace.jsonl")]
    assert found.score.loss == min(losses) < 0.15 * min(losses[:3])
    assert np.abs(np.log(np.array(found.best.mu) / 100 / OPTIMUM)).max() < 0.5


@BOTH
def test_the_same_seed_asks_for_the_same_candidates(settings, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        toy_search(settings, tmp_path / name, seed=seed)
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")
    assert lines_of(tmp_path / "a")[20:] != lines_of(tmp_path / "c")[20:]


@BOTH
def test_a_search_uses_no_global_randomness_and_leaves_no_files(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = repr(np.random.get_state()), random.getstate(), torch.get_rng_state().tolist()
    toy_search(settings, tmp_path / "trace.jsonl")
    after = repr(np.random.get_state()), random.getstate(), torch.get_rng_state().tolist()
    assert before == after
    assert [path.name for path in tmp_path.iterdir()] == ["trace.jsonl"]


# --- the driver -----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("budget", [1, 2, 3, 17, 100])
def test_the_budget_is_spent_exactly_and_nothing_is_scored_twice(settings, budget, tmp_path):
    toy = Toy()
    found = toy_search(settings, tmp_path / "trace.jsonl", budget, toy)
    assert len(toy.scored) == len(set(toy.scored)) == found.evaluations == budget
    assert [line["step"] for line in lines_of(tmp_path / "trace.jsonl")] == [*range(1, budget + 1)]


@BOTH
def test_a_trace_names_the_starts_and_keeps_the_best_so_far(settings, tmp_path):
    toy_search(settings, tmp_path / "trace.jsonl", 60)
    lines = lines_of(tmp_path / "trace.jsonl")
    assert [line["start"] for line in lines] == ["pi", "ntk", "yarn", *[None] * 57]
    losses = np.array([line["fitness"] for line in lines])
    best = np.minimum.accumulate(losses)
    assert np.array_equal([line["best_fitness"] for line in lines], best)
    assert np.allclose([line["best_perplexity"] for line in lines], np.exp(best))
    assert np.allclose([line["perplexity"] for line in lines], np.exp(losses))


@BOTH
@pytest.mark.parametrize("evaluations", [0, 1, 3, 15, 16, 41, 99])
def test_a_search_killed_after_any_evaluation_resumes_to_the_same_result(
    settings, evaluations, tmp_path
):
    whole = toy_search(settings, tmp_path / "whole", 100)
    with pytest.raises(Killed):
        toy_search(settings, tmp_path / "killed", 100, Toy(dies_after=evaluations))
    rest = Toy()
    assert toy_search(settings, tmp_path / "killed", 100, rest) == whole
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "whole")
    assert len(rest.scored) == 100 - evaluations


def test_a_trace_whose_last_line_was_cut_short_is_taken_up(tmp_path):
    trace = tmp_path / "trace.jsonl"
    whole = toy_search(SMALL, trace, 30)
    lines, text = lines_of(trace), trace.read_text()
    trace.write_text(text[: text.rindex('"loss"')])
    assert toy_search(SMALL, trace, 30) == whole
    assert lines_of(trace) == lines


class Exhausted:
    """An optimiser that knows three candidates only."""

    def ask(self):
        return [Candidate(0, (mu,) * PAIRS) for mu in (100, 200, 300, 200)]

    def tell(self, scored):
        assert len(scored) == 4


def test_a_search_that_finds_nothing_new_stops_with_a_message(tmp_path):
    said, toy, space = [], Toy(), first_space(ROPE, 2048)
    found = run_search(Exhausted(), space, {}, toy, 50, 1.0, tmp_path / "t", "toy", said.append)
    assert len(toy.scored) == found.evaluations == 3
    assert found.best.mu == (300,) * PAIRS
    assert len(said) == 1 and "converged after 3 of 50" in said[0]


# --- the stage ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("search") / "data") / "validation"


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    """The checkpoint as if tuned at 2x."""
    lambda_ = (1.0, 1.0, 1.1, 1.37, 1.5, 1.9, 2.2, 2.2)
    factors = RescaleFactors(read_record(model).rope, 2 * WINDOW, "search", lambda_, 4)
    return make_tuned(tmp_path_factory.mktemp("search") / "tuned", model, factors)


def run_stage(model, tokens, folder, window=4 * WINDOW, evaluations=40, documents=2, **options):
    """Search in `folder` with CMA-ES; returns the factors."""
    needles = options.pop("needles", 0)
    settings = SearchSettings(
        window=window,
        budget={"evaluations": evaluations, "documents": documents, "needles": needles},
        optimiser=CMA,
        attention_factor="none",
        needle_weight=0.25,
        seed=1,
    )
    paths = folder / "factors.json", folder / "trace.jsonl", folder / "state"
    search_factors(settings, model, tokens, *paths, **options, say=lambda _: None)
    return read_factors(folder / "factors.json")


def test_the_fitness_is_the_loss_that_transformers_computes(model, tokens):
    document = next(iter(TokenSplit(tokens)))
    rope, length = read_record(model).rope, len(document.tokens)
    rng = np.random.default_rng(0)
    scorer = LossScorer(load_model(model), rope, TokenSplit(tokens), length, 1, rng)
    ids = torch.tensor(document.tokens.astype(np.int64))[None]
    with torch.no_grad():
        expected = load_model(model)(input_ids=ids, labels=ids).loss.item()
    score = scorer.score(closed_form("none", rope, length))
    assert score.fitness == score.loss == pytest.approx(expected, rel=1e-5)
    assert score.needle_loss is None and scorer.tokens == length


def test_needles_add_the_loss_of_their_keys_and_change_no_window(model, tokens):
    made, rope = [], read_record(model).rope

    class Writer(PasskeyWriter):
        def write(self, *arguments):
            made.append(super().write(*arguments))
            return made[-1]

    plain, scorer = (
        LossScorer(load_model(model), rope, TokenSplit(tokens), 256, 2, np.random.default_rng(0))
        for _ in range(2)
    )
    scorer.add_needles(Writer(load_tokenizer(model)), 3, 0.25)
    losses = []
    for needle in made:
        ids = torch.tensor(np.concatenate([needle.prompt, needle.answer]))[None]
        labels = ids.clone()
        labels[:, : len(needle.prompt)] = -100  # the prompt is no target
        with torch.no_grad():
            losses.append(load_model(model)(input_ids=ids, labels=labels).loss.item())
    factors = closed_form("none", rope, 256)
    score, expected = scorer.score(factors), np.mean(losses)
    assert score.loss == plain.score(factors).loss
    assert score.needle_loss == pytest.approx(expected, rel=1e-5)
    assert score.fitness == pytest.approx(score.loss + 0.25 * expected, rel=1e-5)
    assert scorer.tokens == 5 * 256 and all(len(each.key) == 5 for each in made)


def test_a_search_with_needles_minimises_both_losses(model, tokens, tmp_path):
    factors = run_stage(model, tokens, tmp_path, needles=2, evaluations=15)
    lines = lines_of(tmp_path / "trace.jsonl")
    for line in lines:
        both = line["loss"] + 0.25 * line["needle_loss"]
        assert line["fitness"] == pytest.approx(both)
    assert factors.lambda_ == tuple(min(lines, key=lambda line: line["fitness"])["mu"])
    assert factors.provenance["needles"] == 2
    assert run_stage(model, tokens, tmp_path / "again", needles=2, evaluations=15) == factors


def test_a_first_search_writes_monotone_factors_with_their_provenance(model, tokens, tmp_path):
    factors, record = run_stage(model, tokens, tmp_path), read_record(model)
    assert list(factors.lambda_) == sorted(factors.lambda_) and max(factors.lambda_) <= 5
    assert (factors.method, factors.window, factors.rope) == ("search", 256, record.rope)
    assert factors.provenance["weights_fingerprint"] == record.fingerprint
    assert factors.provenance["documents"] == ["macbeth", "the-tempest"]
    assert factors.provenance["evaluations"] == 40 and factors.provenance["seed"] == 1
    assert factors.provenance["tokens_forwarded"] == 40 * 2 * 256
    best = min(lines_of(tmp_path / "trace.jsonl"), key=lambda line: line["loss"])
    assert factors.lambda_ == tuple(best["mu"])


def test_a_search_run_twice_or_killed_between_finds_the_same(model, tokens, tmp_path, monkeypatch):
    whole = run_stage(model, tokens, tmp_path / "whole")
    left, score = iter(range(25)), LossScorer.score

    def dying(self, factors):
        if next(left, None) is None:
            raise Killed
        return score(self, factors)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LossScorer, "score", dying)
        run_stage(model, tokens, tmp_path / "killed")
    assert not (tmp_path / "killed/factors.json").exists()
    resumed = run_stage(model, tokens, tmp_path / "killed")
    assert resumed == whole
    same = {"seconds": 0}
    assert resumed.provenance | same == whole.provenance | same
    assert lines_of(tmp_path / "killed/trace.jsonl") == lines_of(tmp_path / "whole/trace.jsonl")


def test_progress_of_other_settings_is_not_taken_up(model, tokens, tmp_path):
    run_stage(model, tokens, tmp_path, documents=1, evaluations=5)
    other = run_stage(model, tokens, tmp_path, documents=2, evaluations=5)
    fresh = run_stage(model, tokens, tmp_path / "fresh", documents=2, evaluations=5)
    assert other.provenance["validation_loss"] == fresh.provenance["validation_loss"]


def test_a_second_search_stays_on_multiples_of_the_tuned_factors(tuned, tokens, tmp_path):
    factors = run_stage(tuned, tokens, tmp_path, evaluations=20)
    before = read_factors(tuned / "tuned_factors.json")
    hundredths = 100 * np.array(factors.lambda_) / before.lambda_
    assert np.allclose(hundredths, np.rint(hundredths), atol=1e-6)
    assert np.all(np.diff(hundredths) >= -1e-6)
    assert hundredths.min() >= 100 - 1e-6 and hundredths.max() <= 250 + 1e-6  # 1.25 x 2
    assert factors.provenance["multiplies"] == 128 and factors.provenance["weights"] == "tuned"


def test_a_recovery_searches_absolute_factors_for_a_short_window(tuned, tokens, tmp_path):
    factors = run_stage(tuned, tokens, tmp_path, window=WINDOW, recovery=True, evaluations=20)
    assert (factors.method, factors.window) == ("recovery", WINDOW)
    assert max(factors.lambda_) <= 2.2 and factors.provenance["multiplies"] is None
    hundredths = 100 * np.array(factors.lambda_)
    assert np.allclose(hundredths, np.rint(hundredths), atol=1e-9)


def test_a_second_search_can_start_from_factors_of_a_shorter_window(tuned, tokens, tmp_path):
    run_stage(tuned, tokens, tmp_path / "192", window=3 * WINDOW, evaluations=12)
    warm = tmp_path / "192/factors.json"
    run_stage(tuned, tokens, tmp_path / "warm", warm=warm, evaluations=12)
    run_stage(tuned, tokens, tmp_path / "cold", evaluations=12)
    for name, origin in (("warm", "192"), ("cold", "128")):
        starts = [line["start"] for line in lines_of(tmp_path / name / "trace.jsonl")]
        assert starts[0] == f"pi from {origin}"
        assert {start.split(" from ")[1] for start in starts if start} == {origin}


@pytest.mark.parametrize(
    ("weights", "changes", "says"),
    [
        ("base", {"window": WINDOW}, "must be above that of the weights, 64"),
        ("tuned", {"window": 2 * WINDOW}, "must be above that of the weights, 128"),
        ("tuned", {"window": 2 * WINDOW, "recovery": True}, "must be below the tuned one, 128"),
        ("base", {"window": 32, "recovery": True}, "recovery is for fine-tuned weights"),
        ("base", {"documents": 9}, "needs 9 documents of at least 256 tokens, there are 2"),
        ("base", {"window": 8192}, "at least 8,192 tokens, there are 0"),
    ],
)
def test_a_search_that_cannot_be_made_says_why(weights, changes, says, request, tokens, tmp_path):
    checkpoint = request.getfixturevalue("model" if weights == "base" else weights)
    with pytest.raises(UserError, match=says):
        run_stage(checkpoint, tokens, tmp_path, **changes)
    assert not (tmp_path / "factors.json").exists()


def test_tokens_of_another_tokenizer_are_refused(model, tokens, tmp_path):
    shutil.copytree(tokens, tmp_path / "tokens")
    manifest = json.loads((tmp_path / "tokens/manifest.json").read_text())
    manifest["tokenizer"] = "0123456789abcdef"
    (tmp_path / "tokens/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="tokenizer"):
        run_stage(model, tmp_path / "tokens", tmp_path)


def test_warm_factors_of_another_model_are_refused(tuned, tokens, tmp_path):
    other = Rope("other", 10000.0, 2 * PAIRS, WINDOW, "0123456789abcdef")
    write_factors(tmp_path / "warm.json", closed_form("pi", other, 2 * WINDOW))
    with pytest.raises(UserError, match="for model 'other' with fingerprint"):
        run_stage(tuned, tokens, tmp_path, warm=tmp_path / "warm.json")
