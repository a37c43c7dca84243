"""
What a difference between two evaluations is worth.

Two methods are compared on the very same windows, so what is hard about a text cancels. Windows of
one document are no independent witnesses: the bootstrap draws documents, not windows (an interval
over windows would be too narrow). Nothing here reads files or draws.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

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


def compare(
    a_records: Iterable[Mapping],
    b_records: Iterable[Mapping],
    length: int,
    seed: int = 0,
    draws: int = 10_000,
) -> Comparison:
    """Compare the perplexity records of two evaluations at a length, window by window.

    The interval is the percentile bootstrap over documents: each draw takes as many documents as
    there are, with replacement and all their windows, and means over their tokens. With few
    documents it is too narrow: below six, even unanimous ones are no significant sign test.
    Raises UserError unless both scored the same tokens in the same windows.
    """
    a, b = _by_document(a_records, length), _by_document(b_records, length)
    if not a or a.keys() != b.keys():
        raise UserError(
            f"perplexity at {window_label(length)}: the evaluations to compare scored"
            f" {len(a)} and {len(b)} documents, {len(a.keys() & b.keys())} of them in common;"
            " run both with the same windows and corpus"
        )
    gains, tokens, windows = [], [], 0
    for document, ours in a.items():
        theirs = b[document]
        if _scored(ours) != _scored(theirs):
            raise UserError(
                f"perplexity at {window_label(length)}: the evaluations to compare scored other"
                f" tokens of {document!r}; run both with the same windows, stride and corpus"
            )
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
    difference = sum(gains) / sum(tokens)
    if len(a) == 1:
        return Comparison(difference, None, windows, 1, "undecided")
    interval = _bootstrap(np.array(gains), np.array(tokens), seed, draws)
    return Comparison(difference, interval, windows, len(a), _outcome(interval))


def wilson(found: int, trials: int) -> tuple[float, float]:
    """The Wilson score interval (95%) of a share: inside [0, 1], sound for few trials and for 0."""
    assert 0 <= found <= trials and trials > 0
    share, shrink = found / trials, 1 + Z**2 / trials
    middle = (share + Z**2 / (2 * trials)) / shrink
    reach = Z / shrink * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    low = middle - reach if found else 0.0  # exactly, without rounding
    return low, middle + reach if found < trials else 1.0


def _by_document(records: Iterable[Mapping], length: int) -> dict[str, Mapping]:
    return {record["document"]: record for record in records if record["length"] == length}


def _scored(record: Mapping) -> tuple:
    """What was scored: the windows without their losses, and the hash of the tokens."""
    return [(start, scored) for start, scored, _ in record["windows"]], record["scored_sha256"]


def _bootstrap(gains: np.ndarray, tokens: np.ndarray, seed: int, draws: int) -> tuple[float, float]:
    """The percentile interval of sum(gains) / sum(tokens) over drawn documents."""
    rng, documents = np.random.default_rng(seed), len(gains)
    counts = rng.multinomial(documents, np.full(documents, 1 / documents), size=draws)
    low, high = np.quantile(
        (counts @ gains) / (counts @ tokens), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    )
    return float(low), float(high)


def _outcome(interval: tuple[float, float]) -> Outcome:
    low, high = interval
    return "win" if low > 0 else "loss" if high < 0 else "tie"
