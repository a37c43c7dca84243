"""The driver: the budget, the trace, and resuming from any kill."""

import json
import math
import random
import re

import numpy as np
import pytest

from helpers import (
    PAIRS,
    TOY_ROPE,
    Killed,
    Toy,
    convex,
    lines_of,
    toy_search,
)
from longrope.config.search import Bayesian, Cma, CriticalSpace, Evolution, PaperSpace
from longrope.errors import UserError
from longrope.search import bayesian, driver
from longrope.search.driver import run_search
from longrope.search.optimisers import Told, Trial
from longrope.search.scoring import Score
from longrope.search.space import Candidate, first_space

NUMBERS = {"name": "evolution", "population": 16, "mutations": 8, "crossovers": 8, "parents": 8}
SMALL = Evolution(**NUMBERS)
CMA = Cma(name="cma")
KINDS = {
    "evolution": SMALL,
    "evolution, racing": Evolution(**NUMBERS, racing=True),
    "cma": CMA,
    "bayesian": Bayesian(name="bayesian", ramps=6, check_every=4),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True, scope="module")
def _small_pool():
    """The Bayesian search chooses from fewer steps: faster, the same otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bayesian, "POOL", 200)
        yield


def flat(mu: int) -> Candidate:
    return Candidate(0, (mu,) * PAIRS)


class Scripted:
    """An optimiser that asks for given trials, the last ones again and again."""

    def __init__(self, *generations: list[Trial]) -> None:
        self._left, self.told = list(generations), []

    def ask(self) -> list[Trial]:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]

    def tell(self, told: list[Told]) -> None:
        self.told.append(told)


def drive(optimiser, toy, budget, trace, say=print):
    space = first_space(TOY_ROPE, 2048, PaperSpace(), attention_factor=1.0)
    return run_search(optimiser, space, {flat(100): "none"}, toy, budget, trace, "toy", say)


# --- the budget -----------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("budget", [27, 40, 100])
def test_the_budget_is_spent_exactly_and_nothing_is_scored_twice(kind, budget, tmp_path):
    toy = Toy()
    found = toy_search(KINDS[kind], tmp_path / "trace.jsonl", budget, toy)
    assert len(toy.scored) == len(set(toy.scored)) == found.scores == budget
    lines = lines_of(tmp_path / "trace.jsonl")
    assert [line["step"] for line in lines] == [*range(1, budget + 1)]
    assert found.candidates == len({(line["n_hat"], *line["mu"]) for line in lines})


@EVERY
@pytest.mark.parametrize("scores", [3, 4, 9, 10])
def test_even_the_smallest_budget_finds_a_winner(kind, scores, tmp_path):
    found = toy_search(KINDS[kind], tmp_path / "trace.jsonl", scores)
    assert math.isfinite(found.score.fitness)
    # What is left at the end may be less than a finalist takes.
    assert found.scores == scores or (kind == "bayesian" and found.scores > scores - 3)


def test_a_search_that_finds_nothing_new_stops_with_a_message(tmp_path):
    trials, said, toy = [Trial(flat(mu), (0, 1, 2)) for mu in (100, 200, 300, 200)], [], Toy()
    optimiser = Scripted(trials)
    found = drive(optimiser, toy, 50, tmp_path / "t", said.append)
    assert len(toy.scored) == found.scores == 9 and found.candidates == 3
    assert found.best == flat(300)
    assert len(said) == 1 and "converged after 9 of 50" in said[0]
    assert all(
        [each.candidate for each in told] == [flat(mu) for mu in (100, 200, 300, 200)]
        for told in optimiser.told
    )


def test_a_generation_that_the_budget_cuts_is_not_told(tmp_path):
    optimiser = Scripted([Trial(flat(mu), (0, 1, 2)) for mu in (100, 200, 300, 400)])
    found = drive(optimiser, Toy(), 8, tmp_path / "t")
    assert optimiser.told == [] and found.scores == 8
    assert found.best == flat(200)  # 300 would be better, and was scored on two of three


def test_only_what_was_scored_on_every_sample_can_win(tmp_path):
    optimiser = Scripted(
        [Trial(flat(400), (0,)), Trial(flat(200), (0, 1, 2))],
        [Trial(flat(400), (1,)), Trial(flat(300), (2,))],
    )
    found = drive(optimiser, Toy(lambda logs, *_: 2 - logs[0]), 6, tmp_path / "t")
    assert found.best == flat(200)  # 300 and 400 were lower, on two of three
    assert [line["best_fitness"] for line in lines_of(tmp_path / "t")[:3]] == [None] * 3


def test_scores_on_other_samples_add_up_to_a_whole(tmp_path):
    def loss(logs, sample, n_hat):
        return convex(logs, sample, n_hat) + sample

    optimiser = Scripted(*[[Trial(flat(400), (sample,))] for sample in (2, 0, 1)])
    found = drive(optimiser, Toy(loss), 3, tmp_path / "t")
    assert found.score.fitness == pytest.approx(convex(np.log([4.0] * 8), 0, 0) + 1)
    assert [told[0].fitness.keys() for told in optimiser.told] == [{2}, {0}, {1}]


def test_a_loss_that_is_not_finite_is_told_as_inf_and_written_as_null(tmp_path):
    def loss(logs, sample, n_hat):
        return math.inf if sample == 1 else 2.0

    optimiser = Scripted([Trial(flat(300), (0, 1, 2))], [Trial(flat(200), (0, 2))])
    with pytest.raises(UserError, match="no candidate has a finite loss"):
        drive(optimiser, Toy(loss), 5, tmp_path / "t")
    assert optimiser.told[0][0].mean == math.inf
    lines = lines_of(tmp_path / "t")
    assert [line["fitness"] for line in lines] == [2.0, None, 2.0, 2.0, 2.0]
    assert lines[2]["best_fitness"] is None and lines[2]["best_perplexity"] is None
    again = Scripted([Trial(flat(300), (0, 1, 2))], [Trial(flat(200), (0, 2))])
    with pytest.raises(UserError, match="no candidate has a finite loss"):
        drive(again, Toy(loss, dies_after=0), 5, tmp_path / "t")
    assert again.told == optimiser.told


def test_a_huge_finite_loss_breaks_nothing(tmp_path):
    found = toy_search(SMALL, tmp_path / "t", 30, Toy(lambda *_: 800.0))
    assert found.score.fitness == 800


# --- the trace ------------------------------------------------------------------------------


@EVERY
def test_every_line_of_a_trace_is_complete_and_true(kind, tmp_path):
    toy = Toy(lambda logs, sample, n_hat: convex(logs, sample, n_hat) + 0.1 * sample)
    found = toy_search(KINDS[kind], tmp_path / "trace.jsonl", 60, toy, attention=None)
    lines, whole, best = lines_of(tmp_path / "trace.jsonl"), {}, math.inf
    for line, (lambda_, n_hat, attention, sample) in zip(lines, toy.scored, strict=True):
        assert line["mu"] == list(lambda_) and line["n_hat"] == n_hat
        assert (line["attention"], line["sample"]) == (attention, sample)
        expected = convex(np.log(lambda_), sample, n_hat) + 0.1 * sample
        assert line["fitness"] == pytest.approx(expected)
        assert line["losses"] == {"perplexity": line["fitness"]}
        assert line["tokens"] == 7 + 100 * line["step"]
        known = whole.setdefault((lambda_, n_hat, attention), {})
        known[sample] = line["fitness"]
        if len(known) == 3:
            best = min(best, sum(known.values()) / 3)
        if best < math.inf:
            assert line["best_fitness"] == pytest.approx(best)
            assert line["best_perplexity"] == pytest.approx(math.exp(best))
        else:
            assert line["best_fitness"] is None
    assert found.score.fitness == pytest.approx(best)
    generations = [line["generation"] for line in lines]
    assert generations[0] == 0 and generations == sorted(generations)
    names = dict.fromkeys(line["start"] for line in lines)
    assert [name for name in names if name] == ["pi", "ntk", "yarn"]


# --- the progress line ----------------------------------------------------------------------


@pytest.fixture
def progresses(monkeypatch):
    """Every progress of the test, with the notes that it was told."""

    class Kept:
        def __init__(self, title: str, total: int, start: int = 0) -> None:
            self.start, self.notes = start, []
            made.append(self)

        def update(self, done: int, note: str = "") -> None:
            self.notes.append(note)

        def close(self) -> None:
            pass

    made: list[Kept] = []
    monkeypatch.setattr(driver, "Progress", Kept)
    return made


class Mixed(Toy):
    """Perplexity is 2, 4, 8, ... for mu = 1, 2, 3, ...; needles are better the larger it is."""

    def score(self, factors, sample):
        mu = factors.lambda_[0]
        losses = {"perplexity": mu * math.log(2) + sample, "needle": 10 - 2 * mu - sample}
        return Score(losses["perplexity"] + losses["needle"], losses)


EVERY_SAMPLE = (0, 1, 2)


@pytest.fixture
def noted(progresses, tmp_path):
    """The notes of a search of so many scores that asks for some trials (mu, samples)."""

    def run(toy: Toy, starts: dict[int, str], budget: int, *trials: tuple) -> list[str]:
        optimiser = Scripted([Trial(flat(mu), samples) for mu, samples in trials])
        names = {flat(mu): name for mu, name in starts.items()}
        space = first_space(TOY_ROPE, 2048, PaperSpace(), attention_factor=1.0)
        run_search(optimiser, space, names, toy, budget, tmp_path / "t", "toy")
        return progresses[0].notes

    return run


def test_a_line_says_the_perplexity_of_the_best_and_of_starts_if_nothing_else_counts(noted):
    """A start that missed documents is as far from the best as on those that it has, and marked."""
    toy = Toy(lambda logs, sample, n_hat: logs[0] + sample)  # perplexity e mu over all
    starts = {200: "pi", 300: "yarn from 512", 350: "yarn from 512, tempered", 400: "llama3"}
    trials = [(250, EVERY_SAMPLE), (200, EVERY_SAMPLE), (300, (2,)), (350, (1,)), (400, (0,))]
    notes = noted(toy, starts, 9, *trials)
    assert notes[1] == "generation 0, 0.00M tokens"  # no candidate has all documents yet
    assert notes[2] == f"perplexity {2.5 * math.e:.4g}, generation 0, 0.00M tokens"
    beside = f"pi {2 * math.e:.4g}; yarn from 512 ≈ {3 * math.e:.4g}"
    assert notes[-1] == f"perplexity {2 * math.e:.4g} ({beside}), generation 0, 0.00M tokens"


def test_a_line_names_the_best_start_where_it_is_no_form_that_people_compare_with(noted):
    toy, starts = Toy(lambda logs, sample, n_hat: logs[0]), {200: "tuned^0.5", 300: "tuned^1"}
    notes = noted(toy, starts, 5, (100, EVERY_SAMPLE), (200, (0,)), (300, (1,)))
    assert notes[-1].startswith("perplexity 1 (best start tuned^0.5 ≈ 2), generation")


def test_where_more_than_perplexity_counts_the_line_says_the_fitness_which_never_rises(noted):
    starts = {100: "pi", 400: "critical pair 3, 1.00 s"}
    trials = [(mu, EVERY_SAMPLE) for mu in (100, 200, 300, 250)] + [(400, (0,))]
    notes = noted(Mixed(), starts, 13, *trials)[2:]
    fitness = [float(re.match("fitness ([0-9.]+) nats a token ", note).group(1)) for note in notes]
    assert fitness == sorted(fitness, reverse=True) and fitness[0] > fitness[-1]
    perplexity = [float(re.search("perplexity ([0-9.]+),", note).group(1)) for note in notes]
    assert perplexity == sorted(perplexity) and perplexity[0] < perplexity[-1]
    worth = {mu: f"{10 - mu * (2 - math.log(2)):.4g}" for mu in (1, 3, 4)}
    losses = f"perplexity {8 * math.e:.4g}, needle 3"
    beside = f"pi {worth[1]}; best start critical pair 3, 1.00 s ≈ {worth[4]}"
    assert notes[-1].startswith(f"fitness {worth[3]} nats a token ({losses}; {beside}), generation")


# --- resuming -------------------------------------------------------------------------------

SPACES = {
    "paper": {},
    "critical, attention": {"space": CriticalSpace(kind="critical"), "attention": None},
}


@EVERY
@pytest.mark.parametrize("space", SPACES)
def test_a_search_killed_at_ten_moments_resumes_to_the_same_result(kind, space, tmp_path):
    """Ten kills of one search, each a random number of scores after the one before."""
    options = SPACES[space]
    whole = toy_search(KINDS[kind], tmp_path / "whole", 66, **options)
    moments = sorted(random.Random(kind + space).sample(range(66), 10))
    done = 0
    for moment in moments:
        with pytest.raises(Killed):
            toy = Toy(dies_after=moment - done)
            toy_search(KINDS[kind], tmp_path / "killed", 66, toy, **options)
        done = moment
    rest = Toy()
    assert toy_search(KINDS[kind], tmp_path / "killed", 66, rest, **options) == whole
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "whole")
    assert len(rest.scored) == 66 - done
    assert toy_search(KINDS[kind], tmp_path / "killed", 66, Toy(dies_after=0), **options) == whole


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_trace_whose_last_line_was_cut_short_is_taken_up(kept, tmp_path):
    trace = tmp_path / "trace.jsonl"
    whole = toy_search(SMALL, trace, 60)
    lines, text = lines_of(trace), trace.read_text().splitlines(keepends=True)
    trace.write_text("".join(text[:40]) + text[40][:kept])
    toy = Toy()
    assert toy_search(SMALL, trace, 60, toy) == whole
    assert lines_of(trace) == lines and len(toy.scored) == 20


def test_scores_of_a_trace_that_differs_are_made_again_and_counted(tmp_path, progresses):
    """As on a machine that rounds otherwise: from the tenth score on, the trace is of another."""
    whole = toy_search(SMALL, tmp_path / "whole", 60)
    lines, other = lines_of(tmp_path / "whole"), tmp_path / "other"
    toy_search(SMALL, other, 60, seed=2)
    cut = [*lines[:9], *lines_of(other)[9:40]]
    other.write_text("".join(json.dumps(line) + "\n" for line in cut))
    said, toy = [], Toy()
    assert toy_search(SMALL, other, 60, toy, say=said.append) == whole
    assert lines_of(other) == lines and len(toy.scored) == 51
    assert said == [
        "toy: the trace differs from score 10 on (another machine or version of torch rounds"
        " otherwise); 31 scores are made again"
    ]
    assert progresses[-1].start == 9  # what is left is reckoned from there
