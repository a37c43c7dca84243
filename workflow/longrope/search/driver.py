"""
One search from its starts to its factors: ask, score, tell, write down, until the budget is spent.

The trace is the only state. Every scored candidate is appended to it at once; a search that was
killed replays the trace through the same optimiser, without scoring again, and goes on to the
result of an uninterrupted one. No candidate is scored twice.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from longrope.files import append_line, resume_lines
from longrope.progress import Progress
from longrope.search.optimisers import Optimiser
from longrope.search.scoring import Score, Scorer
from longrope.search.space import STEP, Candidate, SearchSpace

STALE = 50  # generations in a row without a new candidate: the optimiser has converged


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    best: Candidate
    score: Score  # on the validation windows
    evaluations: int


def run_search(
    optimiser: Optimiser,
    space: SearchSpace,
    starts: dict[Candidate, str],
    scorer: Scorer,
    evaluations: int,
    attention_factor: float,
    trace: Path,
    title: str,
    say: Callable[[str], None] = print,
) -> Found:
    """Spend `evaluations` scores and return the best candidate; the trace grows in `trace`.

    `starts` gives candidates that are known beforehand the name they have in the trace.
    """
    known = dict(map(_read, resume_lines(trace)))
    met: dict[Candidate, Score] = {}
    best: Candidate | None = None
    progress = Progress(title, evaluations, len(known))
    generation, stale = 0, 0
    while len(met) < evaluations and stale < STALE:
        scored, before = [], len(met)
        for candidate in optimiser.ask():
            if candidate not in met:
                if len(met) == evaluations:
                    break
                began, fresh = time.monotonic(), candidate not in known
                if fresh:
                    factors = space.factors(candidate, "search", attention_factor, {})
                    known[candidate] = scorer.score(factors)
                met[candidate] = known[candidate]
                if best is None or met[candidate].fitness < met[best].fitness:
                    best = candidate
                if fresh:
                    position = {
                        "step": len(met),
                        "generation": generation,
                        "start": starts.get(candidate),
                    }
                    cost = {
                        "tokens": scorer.tokens,
                        "seconds": round(time.monotonic() - began, 4),
                    }
                    append_line(
                        trace, position | _line(candidate, met[candidate], met[best]) | cost
                    )
                    progress.update(len(met), f"best perplexity {math.exp(met[best].loss):.3f}")
            scored.append((candidate, met[candidate].fitness))
        else:
            optimiser.tell(scored)
        stale = stale + 1 if len(met) == before else 0
        generation += 1
    progress.close()
    if stale == STALE:
        say(f"{title}: converged after {len(met)} of {evaluations} evaluations")
    return Found(best, met[best], len(met))


def _line(candidate: Candidate, score: Score, best: Score) -> dict:
    return {
        "n_hat": candidate.n_hat,
        "mu": [value / STEP for value in candidate.mu],
        "fitness": score.fitness,
        "loss": score.loss,
        "needle_loss": score.needle_loss,
        "perplexity": math.exp(score.loss),
        "best_fitness": best.fitness,
        "best_perplexity": math.exp(best.loss),
    }


def _read(line: dict) -> tuple[Candidate, Score]:
    candidate = Candidate(line["n_hat"], tuple(round(value * STEP) for value in line["mu"]))
    return candidate, Score(line["fitness"], line["loss"], line["needle_loss"])
