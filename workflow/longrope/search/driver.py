"""
One search from its starts to its factors: ask, score, tell, write down, until the budget is spent.

The trace is the only state. Every score is appended to it at once; a search that was killed replays
the trace through the same optimiser, without scoring again, and goes on to the result of an
uninterrupted one. No candidate is scored twice on a sample. What it costs is counted in tokens
forwarded, which no machine changes. Only a candidate that was scored on every sample can win.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from longrope.errors import UserError
from longrope.files import append_line, resume_lines, write_lines
from longrope.progress import Progress
from longrope.search.optimisers import Optimiser, Told
from longrope.search.scoring import Score, Scorer, mean_score
from longrope.search.space import STEP, Candidate, SearchSpace

STALE = 50  # generations in a row without a new score: the optimiser has converged
SHOWN = ("pi", "ntk", "yarn")  # starts that the progress line compares with


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    best: Candidate
    score: Score  # on all samples
    scores: int  # on one sample
    candidates: int


@dataclass(slots=True)
class _Board:
    """What is known of every candidate, and which of those scored on all samples is best."""

    samples: int
    scores: dict[Candidate, dict[int, Score]] = field(default_factory=dict)
    count: int = 0
    best: Candidate | None = None
    best_score: Score | None = None

    def add(self, candidate: Candidate, sample: int, score: Score) -> None:
        known = self.scores.setdefault(candidate, {})
        known[sample] = score
        self.count += 1
        if len(known) == self.samples:
            whole = mean_score(list(known.values()))
            if self.best_score is None or whole.fitness < self.best_score.fitness:
                self.best, self.best_score = candidate, whole


def run_search(
    optimiser: Optimiser,
    space: SearchSpace,
    starts: dict[Candidate, str],
    scorer: Scorer,
    budget: int,
    trace: Path,
    title: str,
    say: Callable[[str], None] = print,
) -> Found:
    """Spend `budget` scores, each on one sample, and return the best candidate.

    `starts` gives candidates that are known beforehand the name they have in the trace, which
    grows in `trace`. Where the optimiser asks for another score than the trace holds (another
    machine rounds otherwise), the trace is cut there and the search goes on from that point.
    Raises UserError if no candidate has a finite loss.
    """
    lines = resume_lines(trace)
    board = _Board(scorer.samples)
    progress = Progress(title, budget, len(lines))
    generation, stale = 0, 0

    def score(candidate: Candidate, sample: int) -> None:
        """Take the score from the trace, or make it and append it."""
        if lines and board.count < len(lines):
            if _place(lines[board.count]) == (candidate, sample):
                board.add(candidate, sample, _score(lines[board.count]))
                return
            say(f"{title}: asks otherwise from score {board.count + 1} on; going on from there")
            del lines[board.count :]
            write_lines(trace, lines)
        began = time.monotonic()
        found = scorer.score(space.factors(candidate, "search", {}), sample)
        board.add(candidate, sample, found)
        tokens = scorer.tokens_before + board.count * scorer.tokens
        place = {"step": board.count, "generation": generation, "start": starts.get(candidate)}
        spent = {"tokens": tokens, "seconds": round(time.monotonic() - began, 4)}
        append_line(trace, place | _line(candidate, sample, found, board) | spent)
        progress.update(board.count, _note(board, starts, generation, tokens))

    while board.count < budget and stale < STALE:
        told, before = [], board.count
        for trial in optimiser.ask():
            known = board.scores.setdefault(trial.candidate, {})
            for sample in trial.samples:
                if sample not in known and board.count < budget:
                    score(trial.candidate, sample)
            fitness = {each: known[each].fitness for each in trial.samples if each in known}
            if len(fitness) < len(trial.samples):
                break
            told.append(Told(trial.candidate, fitness))
        else:
            optimiser.tell(told)
        stale = stale + 1 if board.count == before else 0
        generation += 1
    progress.close()
    if board.best is None or math.isinf(board.best_score.fitness):
        raise UserError(
            f"{title}: no candidate has a finite loss on every document: the model's weights or its"
            " precision do not carry so far, or the budget ends before the first is scored on all"
        )
    if stale == STALE:
        say(f"{title}: converged after {board.count} of {budget} scores")
    candidates = sum(1 for known in board.scores.values() if known)
    return Found(board.best, board.best_score, board.count, candidates)


def _note(board: _Board, starts: dict[Candidate, str], generation: int, tokens: int) -> str:
    """What a progress line says: generation, the best perplexity beside the closed forms', cost."""
    cost = f"generation {generation}, {tokens / 1e6:.2f}M tokens"
    if board.best is None:
        return cost
    ahead = board.scores[board.best]
    best, others = board.best_score.losses["perplexity"], {}
    for candidate, name in starts.items():
        form, known = name.split(" from ")[0], board.scores.get(candidate)
        if form in SHOWN and known:  # on the samples it was scored on, as far from the best
            own = mean_score(list(known.values())).losses["perplexity"]
            best_there = mean_score([ahead[sample] for sample in known]).losses["perplexity"]
            others.setdefault(form, f"{form} {_exp(best + own - best_there):.4g}")
    beside = f" ({', '.join(others.values())})" if others else ""
    return f"perplexity {_exp(best):.4g}{beside}, {cost}"


def _line(candidate: Candidate, sample: int, score: Score, board: _Board) -> dict:
    best = board.best_score
    return {
        "n_hat": candidate.n_hat,
        "mu": [value / STEP for value in candidate.mu],
        "attention": None if candidate.attention is None else candidate.attention / STEP,
        "critical": candidate.critical,
        "sample": sample,
        "fitness": _finite(score.fitness),
        "losses": {measure: _finite(loss) for measure, loss in score.losses.items()},
        "best_fitness": best and _finite(best.fitness),  # of those scored on all samples
        "best_perplexity": best and _finite(_exp(best.losses["perplexity"])),
    }


def _place(line: dict) -> tuple[Candidate, int]:
    """The candidate and the sample of a line of the trace."""
    attention = line["attention"]
    candidate = Candidate(
        line["n_hat"],
        tuple(round(value * STEP) for value in line["mu"]),
        None if attention is None else round(attention * STEP),
        line["critical"],
    )
    return candidate, line["sample"]


def _score(line: dict) -> Score:
    losses = {measure: _number(loss) for measure, loss in line["losses"].items()}
    return Score(_number(line["fitness"]), losses)


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _finite(value: float) -> float | None:
    """JSON has no infinity: null stands for a loss that is not finite."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.inf if value is None else value
