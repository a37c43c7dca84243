"""
One search from its starts to its factors: ask, score, tell, write down, until the budget is spent.

The trace is the only state. Every score is appended to it at once; a search that was killed replays
the trace through the same optimiser, without scoring again, and goes on to the result of an
uninterrupted one. No candidate is scored twice on a sample. What it costs is counted in tokens
forwarded, which no machine changes. Only a candidate that was scored on every sample can win.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from longrope.errors import UserError
from longrope.files import append_line, resume_lines, write_lines
from longrope.progress import Progress
from longrope.search.optimisers import Optimiser, Told
from longrope.search.scoring import Crew, Score, Scorer, mean_score
from longrope.search.space import STEP, Candidate, SearchSpace
from longrope.trace_file import checked

STALE = 50  # generations in a row without a new score: the optimiser has converged
Wanted = tuple[Candidate, int]  # a candidate, and the sample that it is to be scored on
SHOWN = ("pi", "ntk", "yarn")  # forms that the progress line compares with


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
    machine rounds otherwise), the trace is cut there: the scores from that one on are made again.
    Raises UserError if no candidate has a finite loss.
    """
    lines = checked(trace, resume_lines(trace))
    board, crew = _Board(scorer.samples), Crew(scorer)
    progress = Progress(title, budget, len(lines))
    generation, stale = 0, 0

    def replay(wanted: list[Wanted]) -> list[Wanted]:
        """Take from the trace what it has; returns what it has not."""
        for done, place in enumerate(wanted):
            if board.count >= len(lines):
                return wanted[done:]
            line = lines[board.count]
            if _place(line) == place:
                board.add(*place, _score(line))
                continue
            again = len(lines) - board.count
            say(
                f"{title}: the trace differs from score {board.count + 1} on (another machine or"
                f" version of torch rounds otherwise); {again} scores are made again"
            )
            del lines[board.count :]
            write_lines(trace, lines)
            progress.start = board.count
            return wanted[done:]
        return []

    def make(wanted: list[Wanted]) -> None:
        """Score side by side, and append each score to the trace."""
        began = time.monotonic()
        found = crew.score([(space.factors(each, "search", {}), at) for each, at in wanted])
        seconds = round((time.monotonic() - began) / len(wanted), 4)
        for (candidate, sample), score in zip(wanted, found, strict=True):
            board.add(candidate, sample, score)
            tokens = scorer.tokens_before + board.count * scorer.tokens
            place = {"step": board.count, "generation": generation, "start": starts.get(candidate)}
            spent = {"tokens": tokens, "seconds": seconds}
            append_line(trace, place | _line(candidate, sample, score, board) | spent)
            progress.update(board.count, _note(board, starts, generation, tokens))

    while board.count < budget and stale < STALE:
        before, trials = board.count, optimiser.ask()
        wanted = dict.fromkeys(
            (trial.candidate, sample)
            for trial in trials
            for sample in trial.samples
            if sample not in board.scores.get(trial.candidate, {})
        )
        new = replay(list(wanted)[: budget - board.count])
        for first in range(0, len(new), crew.width):
            make(new[first : first + crew.width])
        told = []
        for trial in trials:
            known = board.scores.setdefault(trial.candidate, {})
            fitness = {each: known[each].fitness for each in trial.samples if each in known}
            if len(fitness) < len(trial.samples):
                break
            told.append(Told(trial.candidate, fitness))
        else:
            optimiser.tell(told)
        stale = stale + 1 if board.count == before else 0
        generation += 1
    crew.dismiss()
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
    """What a progress line says: the best by what is minimised, starts beside it, the cost.

    That is perplexity where nothing else counts, else the fitness: it never rises, as the
    perplexity of the best may where needles count.
    """
    cost = f"generation {generation}, {tokens / 1e6:.2f}M tokens"
    if board.best is None or math.isinf(board.best_score.fitness):
        return cost
    losses = dict(board.best_score.losses)
    perplexity = f"perplexity {_exp(losses.pop('perplexity')):.4g}"
    beside = _beside(board, starts, mixed=bool(losses))
    if not losses:
        return f"{perplexity}{f' ({beside})' if beside else ''}, {cost}"
    others = [f"{measure.replace('_', ' ')} {loss:.3g}" for measure, loss in losses.items()]
    known = "; ".join([", ".join([perplexity, *others]), *([beside] if beside else [])])
    return f"fitness {board.best_score.fitness:.4g} nats a token ({known}), {cost}"


def _beside(board: _Board, starts: dict[Candidate, str], *, mixed: bool) -> str:
    """Of the forms that people compare with the best start of each, and the best of all starts.

    One that was scored on some documents only is taken to be as far from the best candidate on all
    as it is on those, and marked with ≈.
    """

    def worth(scores: list[Score]) -> float:
        mean = mean_score(scores)
        return mean.fitness if mixed else mean.losses["perplexity"]

    ahead, found = board.scores[board.best], {}
    whole = worth(list(ahead.values()))
    for candidate, name in starts.items():
        if known := board.scores.get(candidate):
            missed = worth(list(known.values())) - worth([ahead[sample] for sample in known])
            value, mark = whole + missed, "≈ " if len(known) < board.samples else ""
            found[name] = value, f"{name} {mark}{value if mixed else _exp(value):.4g}"
    best: dict[str, str] = {}  # form -> name
    for name in sorted(found, key=lambda name: found[name][0]):
        best.setdefault(re.match(r"[^ ,]+", name).group(), name)
    texts = [found[best[form]][1] for form in SHOWN if form in best]
    leader = next(iter(best), None)
    if leader and leader not in SHOWN:
        texts.append(f"best start {found[best[leader]][1]}")
    return "; ".join(texts)


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
