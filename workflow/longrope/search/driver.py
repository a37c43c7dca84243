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

from longrope.files import append_line, read_lines
from longrope.progress import Progress
from longrope.search.optimisers import Optimiser
from longrope.search.scoring import Scorer
from longrope.search.space import STEP, Candidate, SearchSpace

STALE = 50  # generations in a row without a new candidate: the optimiser has converged


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    best: Candidate
    loss: float  # nats a token, on the validation windows
    evaluations: int


def run_search(
    optimiser: Optimiser,
    space: SearchSpace,
    scorer: Scorer,
    evaluations: int,
    attention_factor: float,
    trace: Path,
    title: str,
    say: Callable[[str], None] = print,
) -> Found:
    """Spend `evaluations` scores and return the best candidate; the trace grows in `trace`."""
    known = {_candidate(record): record["loss"] for record in read_lines(trace)}
    met: dict[Candidate, float] = {}
    progress = Progress(title, evaluations, len(known))
    generation, stale = 0, 0
    while len(met) < evaluations and stale < STALE:
        scored, before = [], len(met)
        for candidate in optimiser.ask():
            if candidate not in met:
                if len(met) == evaluations:
                    break
                if candidate not in known:
                    began = time.monotonic()
                    loss = scorer.score(space.factors(candidate, "search", attention_factor, {}))
                    best = min([loss, *met.values()])
                    append_line(
                        trace,
                        {
                            "step": len(met) + 1,
                            "generation": generation,
                            "n_hat": candidate.n_hat,
                            "mu": [value / STEP for value in candidate.mu],
                            "loss": loss,
                            "best": best,
                            "perplexity": math.exp(loss),
                            "best_perplexity": math.exp(best),
                            "tokens": scorer.tokens,
                            "seconds": round(time.monotonic() - began, 4),
                        },
                    )
                    known[candidate] = loss
                met[candidate] = known[candidate]
                if len(met) > progress.start:
                    progress.update(len(met), f"best perplexity {math.exp(min(met.values())):.3f}")
            scored.append((candidate, met[candidate]))
        else:
            optimiser.tell(scored)
        stale = stale + 1 if len(met) == before else 0
        generation += 1
    progress.close()
    if stale == STALE:
        say(f"{title}: converged after {len(met)} of {evaluations} evaluations")
    best = min(met, key=met.__getitem__)
    return Found(best, met[best], len(met))


def _candidate(record: dict) -> Candidate:
    return Candidate(record["n_hat"], tuple(round(value * STEP) for value in record["mu"]))
