"""
What a difference between two evaluations is worth.

Two methods are compared on the very same windows or prompts, so what is hard about a text cancels.
Windows of one document are no independent witnesses: intervals are Student's t over documents (over
windows, or by a bootstrap of six documents, they would be too narrow). Seeds of a method are
averaged first, as they read the same text: no test here covers other seeds. Nothing here reads
files or draws.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from longrope.errors import UserError
from longrope.windows import window_label

LEVEL = 0.95  # of every interval
Z = 1.959963984540054  # the normal distribution's quantile for it

Outcome = Literal["win", "loss", "tie", "undecided"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better A is than B at one length."""

    difference: float  # mean loss of B - mean loss of A, in nats a token: above 0, A is better
    interval: tuple[float, float] | None  # of 95%; none with one document
    windows: int  # that both were scored on
    documents: int  # that these windows are from
    outcome: Outcome  # win: interval above 0; loss: below 0; tie: neither; undecided: no interval


def compare(a_records: Iterable[Mapping], b_records: Iterable[Mapping], length: int) -> Comparison:
    """Compare the perplexity records of two evaluations at a length, window by window.

    The difference is a mean over tokens, its interval that of `mean_interval`. Raises UserError
    unless both scored the same tokens in the same windows.
    """
    pairs = _paired(a_records, b_records, length)
    gains, tokens, windows = [], [], 0
    for ours, theirs in pairs:
        windows += len(ours["windows"])
        tokens.append(sum(scored for _, scored, _ in ours["windows"]))
        gains.append(
            sum(
                scored * (other - own)
                for (_, scored, own), (_, _, other) in zip(
                    ours["windows"], theirs["windows"], strict=True
                )
            )
        )
    difference, interval = sum(gains) / sum(tokens), mean_interval(gains, tokens)
    outcome = _outcome(interval) if interval else "undecided"
    return Comparison(difference, interval, windows, len(pairs), outcome)


def mean_losses(runs: Sequence[Sequence[Mapping]], length: int) -> list[dict]:
    """The perplexity records at a length with every window's loss averaged over runs, one a seed.

    Raises UserError unless all scored the same tokens in the same windows.
    """
    matched = [[own for _, own in _paired(runs[0], run, length)] for run in runs]
    return [
        same[0] | {"windows": list(map(_mean_window, *(record["windows"] for record in same)))}
        for same in zip(*matched, strict=True)
    ]


def compare_passkeys(a_records: Sequence[Mapping], b_records: Sequence[Mapping]) -> Outcome:
    """Whether A finds more passkeys than B at one length, prompt by prompt; one record a seed.

    The same for RULER's needles, whose trials have no depth. Means over seeds are compared, at 5%.
    Raises UserError unless all read the same prompts.
    """
    prompts = {
        tuple(
            (trial.get("key", trial.get("value")), trial.get("depth")) for trial in record["trials"]
        )
        for record in (*a_records, *b_records)
    }
    if len(prompts) > 1 or () in prompts:
        raise UserError(
            f"passkeys at {window_label(a_records[0]['length'])}: the evaluations to compare read"
            " other prompts; run both with the same seed, key and number of prompts"
        )
    a, b = (
        np.sum([[trial["found"] for trial in record["trials"]] for record in records], axis=0)
        for records in (a_records, b_records)
    )
    differences = a * len(b_records) - b * len(a_records)  # integers: means times both counts
    if flip_test(differences) > 1 - LEVEL:
        return "tie"
    return "win" if differences.sum() > 0 else "loss"


def flip_test(differences: Iterable[int]) -> float:
    """The two-sided p of a sum of paired differences: the exact sign-flip test.

    If both sides are alike, every difference is as likely to have the other sign. With differences
    of -1, 0 and 1 this is McNemar's exact test.
    """
    differences = [int(each) for each in differences]
    chances = np.ones(1)  # of every sum from -reach to reach
    for each in map(abs, differences):
        chances = (np.pad(chances, (0, 2 * each)) + np.pad(chances, (2 * each, 0))) / 2
    reach = sum(map(abs, differences))
    sums = np.arange(-reach, reach + 1)
    return float(chances[np.abs(sums) >= abs(sum(differences))].sum())


def mean_interval(sums: Sequence[float], tokens: Sequence[int]) -> tuple[float, float] | None:
    """The 95% interval of sum(sums) / sum(tokens), one sum a document; None for one document.

    Student's t over documents, for a ratio (Cochran 1977, chapter 6): the standard error is that
    of what each document's sum is off from the common mean of its tokens. Few documents have a wide
    interval: with two, 12.7 standard errors to each side, with six 2.6.
    """
    documents = len(sums)
    if documents < 2:
        return None
    sums_D, tokens_D = np.asarray(sums, dtype=float), np.asarray(tokens, dtype=float)
    mean = sums_D.sum() / tokens_D.sum()
    spread = np.sum((sums_D - mean * tokens_D) ** 2) * documents / (documents - 1)
    reach = stdtrit(documents - 1, (1 + LEVEL) / 2) * math.sqrt(spread) / tokens_D.sum()
    return float(mean - reach), float(mean + reach)


def wilson(found: int, trials: int) -> tuple[float, float]:
    """The Wilson score interval (95%) of a share: inside [0, 1], sound for few trials and for 0."""
    assert 0 <= found <= trials and trials > 0
    share, shrink = found / trials, 1 + Z**2 / trials
    middle = (share + Z**2 / (2 * trials)) / shrink
    reach = Z / shrink * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    low = middle - reach if found else 0.0  # exactly, without rounding
    return low, middle + reach if found < trials else 1.0


def found_share(found: int, prompts: int) -> dict:
    """The share that is found of prompts, as records have it, with its Wilson interval (95%)."""
    low, high = wilson(found, prompts)
    return {
        "accuracy": found / prompts,
        "low": low,
        "high": high,
        "found": found,
        "prompts": prompts,
    }


def _paired(
    a_records: Iterable[Mapping], b_records: Iterable[Mapping], length: int
) -> list[tuple[Mapping, Mapping]]:
    """The records of both at a length, by document; UserError unless they scored the same."""
    a, b = _by_document(a_records, length), _by_document(b_records, length)
    if not a or a.keys() != b.keys():
        raise UserError(
            f"perplexity at {window_label(length)}: the evaluations to compare scored"
            f" {len(a)} and {len(b)} documents, {len(a.keys() & b.keys())} of them in common;"
            " run both with the same windows and corpus"
        )
    for document in a:
        if _scored(a[document]) != _scored(b[document]):
            raise UserError(
                f"perplexity at {window_label(length)}: the evaluations to compare scored other"
                f" tokens of {document!r}; run both with the same windows, stride and corpus"
            )
    return [(ours, b[document]) for document, ours in a.items()]


def _by_document(records: Iterable[Mapping], length: int) -> dict[str, Mapping]:
    return {record["document"]: record for record in records if record["length"] == length}


def _scored(record: Mapping) -> tuple:
    """What was scored: the windows without their losses, and the hash of the tokens."""
    return [(start, scored) for start, scored, _ in record["windows"]], record["scored_sha256"]


def _mean_window(*windows: tuple[int, int, float]) -> list:
    """One window as several runs scored it; equal losses stay exactly that."""
    start, scored, first = windows[0]
    return [start, scored, first + fmean(loss - first for _, _, loss in windows)]


def _outcome(interval: tuple[float, float]) -> Outcome:
    low, high = interval
    return "win" if low > 0 else "loss" if high < 0 else "tie"
