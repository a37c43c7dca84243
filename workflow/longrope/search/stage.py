"""
The stage `longrope search`: which space, which starts, and where the result goes.

First search: absolute factors on the pre-trained model. Second search: multipliers on the factors
that the model was fine-tuned with. Recovery: absolute factors for a short window of that model.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from longrope.baselines import closed_form
from longrope.config.search import SearchSettings
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, describe, read_factors, write_factors
from longrope.files import resume_lines, write_lines
from longrope.models.checkpoint import load_model, load_tokenizer, read_record, tuned_factors
from longrope.parallel.place import here
from longrope.passkey import PasskeyWriter
from longrope.rope import attention_factor
from longrope.search.driver import run_search
from longrope.search.optimisers import make_optimiser
from longrope.search.scoring import Crew, LossScorer
from longrope.search.space import (
    CRITICAL_MARGIN,
    Candidate,
    SearchSpace,
    first_space,
    recovery_space,
    second_space,
)
from longrope.state import open_state
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
    space = _space(record.rope, tuned, settings, recovery)
    rng = np.random.default_rng([settings.seed, settings.window])
    data_rng, search_rng, start_rng = rng.spawn(3)
    starts = _starts(space, optimiser_settings.starts, tuned, warm_factors, recovery, start_rng)
    if "lambda" not in settings.space.vary:
        optimiser_settings, starts = None, _every_n_hat(space, starts)
    weights = f"{record.rope.model}/{record.weights}"
    if optimiser_settings is None and len(starts) > settings.budget.evaluations:
        raise UserError(
            f"evaluations = {settings.budget.evaluations}: space.vary [n_hat] tries"
            f" {len(starts)} candidates, every start with every n_hat; set evaluations:"
            f" {len(starts)}"
        )
    model = load_model(model_folder)
    made_from = {
        "version": VERSIONS["search"],
        "arithmetic": f"{model.dtype} on {model.device.type}",
        "settings": settings.model_dump(),
        "weights": record.fingerprint,
        "tokens": split.sha256,
        "starts": [[str(value) for value in dataclasses.astuple(start)] for start in starts],
        "base": [str(value) for value in space.base],
    }
    progress = here().once(lambda: open_state(state, made_from, say)) / "trace.jsonl"
    budget = settings.budget
    scorer = LossScorer(
        model,
        record.rope,
        split,
        settings.window,
        budget.documents,
        settings.fitness,
        data_rng,
        PasskeyWriter(tokenizer),
        tuned,
    )
    if not here().leads:
        Crew(scorer).follow()
        return {}
    method = "recovery" if recovery else "search"
    found = run_search(
        make_optimiser(
            optimiser_settings, space, list(starts), budget.documents, budget.scores, search_rng
        ),
        space,
        starts,
        scorer,
        budget.scores,
        progress,
        f"{method} {weights} {window_label(settings.window)}",
        say,
    )
    lines = resume_lines(progress)
    tokens = scorer.tokens_before + found.scores * scorer.tokens
    provenance = {
        "weights": record.weights,
        "weights_fingerprint": record.fingerprint,
        "multiplies": tuned.window if tuned and not recovery else None,
        "optimiser": optimiser_settings.model_dump() if optimiser_settings else "every n_hat",
        "space": settings.space.model_dump(),
        "fitness": settings.fitness.model_dump(),
        "candidates": found.candidates,
        "scores": found.scores,
        "best_is_start": starts.get(found.best),  # null: a candidate that the optimiser made
        "critical_pair": found.best.critical or None,
        "tokens_forwarded": tokens,
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "validation_fitness": found.score.fitness,
        "validation_losses": found.score.losses,  # nats a token
        "starts": list(starts.values()),
        "arithmetic": made_from["arithmetic"],
        "documents": scorer.documents,
        "corpus_sha256": split.sha256,
        "seed": settings.seed,
        "version": VERSIONS["search"],
    }
    factors = space.factors(found.best, method, provenance)
    write_lines(trace, lines)
    write_factors(out, factors)
    say(describe(factors))
    return {
        "fitness": found.score.fitness,
        **{f"{measure}_loss": loss for measure, loss in found.score.losses.items()},
        "perplexity": float(np.exp(found.score.losses["perplexity"])),
        "candidates": found.candidates,
        "tokens_forwarded": tokens,
    }


def _space(
    rope: Rope, tuned: RescaleFactors | None, settings: SearchSettings, recovery: bool
) -> SearchSpace:
    label, window = window_label(settings.window), settings.window
    if settings.attention_factor == "search":
        base = tuned.attention_factor if tuned and not recovery else 1.0  # recovery is absolute
        attention = {"attention_factor": None, "attention_base": base}
    else:
        factor = attention_factor(settings.attention_factor, rope, window, tuned)
        attention = {"attention_factor": factor}
    if recovery:
        if tuned is None:
            raise UserError("recovery is for fine-tuned weights; these are as they were trained")
        if settings.space.kind != "paper":
            raise UserError("recovery is absolute: it searches the paper's space only")
        if window >= tuned.window:
            raise UserError(
                f"recovery at {label}: the window must be below the tuned one,"
                f" {window_label(tuned.window)}"
            )
        return recovery_space(tuned, window, settings.space, **attention)
    extended = tuned.window if tuned else rope.original_window
    if window <= extended:
        raise UserError(
            f"search at {label}: the window must be above that of the weights,"
            f" {window_label(extended)}"
        )
    if tuned:
        return second_space(tuned, window, settings.space, **attention)
    return first_space(rope, window, settings.space, **attention)


def _starts(
    space: SearchSpace,
    forms: list[str],
    tuned: RescaleFactors | None,
    warm: RescaleFactors | None,
    recovery: bool,
    rng: np.random.Generator,
) -> dict[Candidate, str]:
    """Candidates to begin from, and what each is called: closed forms, and what is known already.

    Where the attention factor is searched, each form is there with its own and with YaRN's. The
    critical space has LongRoPE2's starts instead: every critical pair, with mu = s and with mu
    drawn from [s, 2 s]. One that several names give is kept once, under the first of them.
    """
    named: list[tuple[Candidate, str]] = []
    if space.criticals != (0,):
        yarn = closed_form("yarn", space.rope, space.window, on=tuned)
        attention = yarn.attention_factor / space.attention_base
        for pair in space.criticals:
            for stretch in (1.0, rng.uniform(1, CRITICAL_MARGIN)):
                mu = np.full(space.rope.pairs, space.ratio * stretch)
                start = space.snap(mu, space.n_hat, attention, pair)
                named.append((start, f"critical pair {pair}, {stretch:.2f} s"))
    elif recovery:
        for power in (0.0, *HALFWAY, 1.0):
            mu = [value**power for value in tuned.lambda_]
            start = space.snap(mu, tuned.n_hat, tuned.attention_factor**power)
            named.append((start, f"tuned^{power:g}"))
    else:
        named += _stretched(space, forms, tuned)
        if warm:
            named += _stretched(space, forms, warm)
    starts: dict[Candidate, str] = {}
    for candidate, name in named:
        starts.setdefault(candidate, name)
    return starts


def _stretched(
    space: SearchSpace, forms: list[str], on: RescaleFactors | None
) -> list[tuple[Candidate, str]]:
    """Closed forms from the original window, or from `on`, and their names."""
    origin = f" from {window_label(on.window)}" if on else ""
    yarn = closed_form("yarn", space.rope, space.window, on=on)
    tempered = yarn.attention_factor / space.attention_base
    found = []
    for form in forms:
        factors = closed_form(form, space.rope, space.window, on=on)
        found.append((space.candidate(factors), f"{form}{origin}"))
        if space.searches_attention:
            found.append((space.candidate(factors, tempered), f"{form}{origin}, tempered"))
    return found


def _every_n_hat(space: SearchSpace, starts: dict[Candidate, str]) -> dict[Candidate, str]:
    """Every start with every n_hat (the paper's Table 2)."""
    return {
        dataclasses.replace(start, n_hat=n_hat): f"{name}, n_hat {n_hat}"
        for start, name in starts.items()
        for n_hat in space.n_hats
    }
