"""
Perplexity of held-out documents by a sliding window.

At length L a window of L tokens slides over a stretch in the middle of each test document. With
no `stride` the windows do not overlap and every token but each window's first is scored. With a
stride S < L, later windows score only their last S tokens, so each token is scored once, with at
least L - S tokens before it (the paper: S = 256). In the mode `truncate` each document has one
window, at its start. No KV cache, no logits, no chunks.
"""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from longrope.config.evaluation import PerplexityStage, protocol_of
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.evaluate.records import Task, Units, evaluate_lengths, tiers_of
from longrope.factors import RescaleFactors
from longrope.losses import token_losses
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.parallel.sequence import spread_attention
from longrope.rope import install
from longrope.statistics import mean_interval
from longrope.versions import VERSIONS


@dataclass(frozen=True, slots=True)
class Window:
    """One forward pass: `tokens[start:start + length]`, of which the last `scored` count."""

    start: int  # in the document
    scored: int


def evaluate_perplexity(
    stage: PerplexityStage,
    model_folder: Path,
    tokens_folder: Path,
    factors: list[Path],
    out: Path,
    state: Path,
) -> dict[str, float]:
    """Score a checkpoint with a method's factors; returns the perplexity at each length."""
    record = read_record(model_folder)
    split = TokenSplit(tokens_folder)
    split.check_tokenizer(load_tokenizer(model_folder))
    tiers = tiers_of(factors, record)
    plans = {length: plan(split, length, stage) for length in stage.windows}
    model = load_model(model_folder)
    rotary = install(model, record.rope, one_call=True)
    spread_attention(model)

    @torch.no_grad()
    def measure(length: int, factors: RescaleFactors, units: Units) -> list[dict]:
        rotary.use([factors])
        planned = [(document, each) for document, windows in plans[length] for each in windows]
        losses = iter(units.deal(planned, lambda each: _mean_loss(model, *each, length)))
        return [
            _record(document, length, windows, list(itertools.islice(losses, len(windows))))
            for document, windows in plans[length]
        ]

    protocol = {
        "corpus_sha256": split.sha256,
        "split": split.manifest["split"],
        "window": "length",
        **protocol_of(stage),
    }
    task = Task(
        "perplexity",
        stage.evaluation,
        stage.method,
        model_folder,
        tiers,
        stage.windows,
        protocol,
        VERSIONS["evaluate-perplexity"],
    )
    results = evaluate_lengths(task, measure, summarise, out, state)
    return {f"perplexity_{length}": result["perplexity"] for length, result in results.items()}


def summarise(records: list[dict]) -> dict:
    """What the records of one length, one a document, come to.

    `perplexity` is exp(mean loss over all scored tokens), `interval` its 95% interval
    over documents (None with one document). `perplexity_document_mean` is the mean of every
    document's own, for comparison with papers that average so.
    """
    tokens = [record["tokens"] for record in records]
    sums = [record["tokens"] * record["loss"] for record in records]
    own = [_exp(record["loss"]) for record in records]
    interval = mean_interval(sums, tokens)
    return {
        "perplexity": _exp(sum(sums) / sum(tokens)),
        "interval": [_exp(loss) for loss in interval] if interval else None,
        "perplexity_document_mean": sum(own) / len(own),
        "tokens": sum(tokens),
        "windows": sum(len(record["windows"]) for record in records),
        "documents": len(records),
        "joined": sum(record["joined"] for record in records),
    }


def plan(split: TokenSplit, length: int, stage: PerplexityStage) -> list[tuple]:
    """The windows of each test document at a length; UserError if the split has too few.

    `stage.windows[length]` windows are dealt to the documents in turn, as far as each has room.
    """
    wanted, stride = stage.windows[length], min(stage.stride or length, length)
    if length < 2:
        raise UserError(f"perplexity at {length} token: a window takes at least 2")
    shortest = max(length, stage.at_least or 0)
    documents = [each for each in split if len(each.tokens) >= shortest][: stage.documents]
    if stage.mode == "truncate":
        if len(documents) < wanted:
            raise UserError(
                f"{split.folder}: perplexity at {length:,} tokens wants one window of {wanted}"
                f" documents, there are {len(documents)} of at least {shortest:,} tokens"
            )
        return [(document, [Window(0, length - 1)]) for document in documents[:wanted]]
    room = [len(document.tokens) // length for document in documents]
    if sum(room) < wanted:
        raise UserError(
            f"{split.folder}: perplexity at {length:,} tokens wants {wanted} windows that do not"
            f" overlap, its {len(documents)} documents of at least {shortest:,} tokens have"
            f" {sum(room)}: lower the windows for it, or add longer test documents"
        )
    dealt = [0] * len(documents)
    while sum(dealt) < wanted:
        for index in range(len(documents)):
            if dealt[index] < room[index] and sum(dealt) < wanted:
                dealt[index] += 1
    return [
        (document, slide(len(document.tokens), length, count, stride))
        for document, count in zip(documents, dealt, strict=True)
        if count
    ]


def slide(tokens: int, length: int, count: int, stride: int) -> list[Window]:
    """Windows over a stretch of `count * length` tokens in the middle of a document."""
    first = (tokens - count * length) // 2
    if stride == length:
        return [Window(first + number * length, length - 1) for number in range(count)]
    slides = (count - 1) * length // stride
    return [Window(first, length - 1)] + [
        Window(first + number * stride, stride) for number in range(1, slides + 1)
    ]


def _mean_loss(model, document, window: Window, length: int) -> float:
    """The mean loss of the tokens that a window scores, in nats."""
    ids = torch.from_numpy(_tokens(document, window, length, length))[None].to(model.device)
    loss = token_losses(model, ids)[0, -window.scored :].double().mean().item()
    if not np.isfinite(loss):
        raise UserError(
            f"perplexity at {length:,} tokens of {document.id!r}: the loss is no number; run the"
            " model in float32 (source.precision), or leave the method out"
        )
    return loss


def _record(document, length: int, windows: list[Window], losses: list[float]) -> dict:
    digest = hashlib.sha256()
    for window in windows:
        digest.update(_tokens(document, window, length, window.scored).tobytes())
    total = sum(window.scored for window in windows)
    summed = sum(window.scored * loss for window, loss in zip(windows, losses, strict=True))
    return {
        "length": length,
        "document": document.id,
        "joined": document.joined,
        "tokens": total,
        "loss": summed / total,
        "windows": [  # [start, tokens scored, mean loss in nats]
            [window.start, window.scored, loss]
            for window, loss in zip(windows, losses, strict=True)
        ],
        "scored_sha256": digest.hexdigest(),
    }


def _tokens(document, window: Window, length: int, last: int) -> np.ndarray:
    """The last so many tokens of a window."""
    end = window.start + length
    return np.asarray(document.tokens[end - last : end], np.int64)


def _exp(loss: float) -> float:
    return float(np.exp(loss))
