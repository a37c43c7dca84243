"""
The stage `longrope search`: which space, which starts, and where the result goes.

First search: absolute factors on the pre-trained model. Second search: multipliers on the factors
that the model was fine-tuned with. Recovery: absolute factors for a short window of that model.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from longrope.baselines import closed_form
from longrope.config import SearchSettings
from longrope.corpus import TokenSplit
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, describe, read_factors, write_factors
from longrope.files import open_state, read_lines, write_lines
from longrope.models import load_model, load_tokenizer, read_record, tuned_factors
from longrope.passkey import PasskeyWriter
from longrope.rope import attention_factor
from longrope.search.driver import run_search
from longrope.search.optimisers import make_optimiser
from longrope.search.scoring import LossScorer
from longrope.search.space import (
    Candidate,
    SearchSpace,
    first_space,
    recovery_space,
    second_space,
)
from longrope.versions import VERSIONS
from longrope.windows import window_label

HALFWAY = (0.25, 0.5, 0.75)  # recovery starts: powers of the tuned factors


def search_factors(
    settings: SearchSettings,
    model_folder: Path,
    tokens_folder: Path,
    out: Path,
    trace: Path,
    state: Path,
    *,
    recovery: bool = False,
    warm: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Search one window's factors for a checkpoint and write `factors.json` and the trace.

    `warm` are factors of a shorter window, found on the same weights, to start from. Returns
    final metrics. Raises UserError if the window does not fit the model or its documents.
    """
    record = read_record(model_folder)
    tuned = tuned_factors(model_folder)
    split, tokenizer = TokenSplit(tokens_folder), load_tokenizer(model_folder)
    split.check_tokenizer(tokenizer)
    warm_factors = read_factors(warm, record.rope) if warm else None
    optimiser_settings = settings.budget.optimiser or settings.optimiser
    space = _space(record.rope, tuned, settings.window, recovery, optimiser_settings)
    starts = _starts(space, optimiser_settings.starts, tuned, warm_factors, recovery)
    weights = f"{record.rope.model}/{record.weights}"
    made_from = {
        "version": VERSIONS["search"],
        "settings": settings.model_dump(),
        "weights": record.fingerprint,
        "tokens": split.sha256,
        "starts": [[start.n_hat, *start.mu] for start in starts],
        "base": [str(value) for value in space.base],
    }
    progress = open_state(state, made_from) / "trace.jsonl"
    data_rng, search_rng = np.random.default_rng([settings.seed, settings.window]).spawn(2)
    scorer = LossScorer(
        load_model(model_folder),
        record.rope,
        split,
        settings.window,
        settings.budget.documents,
        data_rng,
    )
    if settings.budget.needles:
        writer = PasskeyWriter(tokenizer)
        scorer.add_needles(writer, settings.budget.needles, settings.needle_weight)
    factor = attention_factor(settings.attention_factor, record.rope, settings.window, tuned)
    method = "recovery" if recovery else "search"
    found = run_search(
        make_optimiser(optimiser_settings, space, list(starts), search_rng),
        space,
        starts,
        scorer,
        settings.budget.evaluations,
        factor,
        progress,
        f"{method} {weights} {window_label(settings.window)}",
        say,
    )
    lines = read_lines(progress)
    provenance = {
        "weights": record.weights,
        "weights_fingerprint": record.fingerprint,
        "multiplies": tuned.window if tuned and not recovery else None,
        "optimiser": optimiser_settings.model_dump(),
        "evaluations": found.evaluations,
        "best_is_start": starts.get(found.best),  # null: a candidate that the optimiser made
        "tokens_forwarded": sum(line["tokens"] for line in lines),
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "fitness": found.score.fitness,
        "validation_loss": found.score.loss,
        "needle_loss": found.score.needle_loss,
        "needles": settings.budget.needles,
        "documents": scorer.documents,
        "corpus_sha256": split.sha256,
        "seed": settings.seed,
        "version": VERSIONS["search"],
    }
    factors = space.factors(found.best, method, factor, provenance)
    write_lines(trace, lines)
    write_factors(out, factors)
    say(describe(factors) + (f", the start {start!r}" if (start := starts.get(found.best)) else ""))
    return {
        "fitness": found.score.fitness,
        "loss": found.score.loss,
        "perplexity": float(np.exp(found.score.loss)),
        "evaluations": found.evaluations,
        "tokens_forwarded": provenance["tokens_forwarded"],
    }


def _space(
    rope: Rope, tuned: RescaleFactors | None, window: int, recovery: bool, optimiser
) -> SearchSpace:
    label, monotone = window_label(window), getattr(optimiser, "monotone", True)
    if recovery:
        if tuned is None:
            raise UserError("recovery is for fine-tuned weights; these are as they were trained")
        if window >= tuned.window:
            raise UserError(
                f"recovery at {label}: the window must be below the tuned one,"
                f" {window_label(tuned.window)}"
            )
        return recovery_space(tuned, window, monotone)
    extended = tuned.window if tuned else rope.original_window
    if window <= extended:
        raise UserError(
            f"search at {label}: the window must be above that of the weights,"
            f" {window_label(extended)}"
        )
    if tuned:
        return second_space(tuned, window, monotone)
    return first_space(rope, window, monotone)


def _starts(
    space: SearchSpace,
    forms: list[str],
    tuned: RescaleFactors | None,
    warm: RescaleFactors | None,
    recovery: bool,
) -> dict[Candidate, str]:
    """Candidates to begin from, and what each is called: closed forms, and what is known already.

    One that several names give is kept once, under the first of them.
    """
    named: list[tuple[Candidate, str]] = []
    if recovery:
        for power in (0.0, *HALFWAY, 1.0):
            mu = [value**power for value in tuned.lambda_]
            named.append((space.snap(mu, tuned.n_hat), f"tuned^{power:g}"))
    else:
        on = warm or tuned
        origin = f" from {window_label(on.window)}" if on else ""
        for form in forms:
            factors = closed_form(form, space.rope, space.window, on=on)
            named.append((space.candidate(factors), f"{form}{origin}"))
    starts: dict[Candidate, str] = {}
    for candidate, name in named:
        starts.setdefault(candidate, name)
    return starts
