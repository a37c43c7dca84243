"""
Training sequences: segments of text, and documents that teach a small model to retrieve.

A model of a million parameters meets too little text to learn to look up a number, so its
pre-training and its fine-tuning mix in documents that need it (the share is configuration, and
every passkey table says what the tuning held). The kinds:

    text       a segment of one training document between BOS and EOS
    passage    a segment without them, as a window in the middle of a document is
    digits-K   the paper's passkey document, key of K digits; half of them with text as filler
    word       the same with one of 100 words as key
    dense-K    statements `word is KKK.`, half of them repeats, whose digits are the answers
    copy       a random piece of text, repeated; the answers are all repeats

A batch is a function of (seed, step) alone, so an interrupted run goes on with the very same data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.passkey import WORDS, PasskeyWriter, random_key

ANSWER_WEIGHT = 4.0  # of a passkey's tokens, against 1 of the others in its document
SHORTEST_WITH_INTRO = 128  # tokens; shorter passkey documents leave the introduction out
OTHER_WEIGHT = 0.2  # of what is no answer in a dense document


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one length, with the weight of each token as a target."""

    tokens: np.ndarray  # (sequences, length), int64
    weights: np.ndarray  # (sequences, length), float32; the first column is never a target
    kinds: tuple[str, ...]  # of every sequence
    positions: np.ndarray | None = None  # (sequences, length), int64; None: 0, 1, 2, ...
    original: bool = False  # whether they run with the model's original RoPE

    def split(self, size: int) -> Iterator["Batch"]:
        """The same in parts of at most `size` sequences."""
        for first in range(0, len(self.tokens), size):
            yield self.rows(slice(first, first + size))

    def rows(self, rows: slice) -> "Batch":
        """Some of the sequences."""
        positions = None if self.positions is None else self.positions[rows]
        return Batch(
            self.tokens[rows], self.weights[rows], self.kinds[rows], positions, self.original
        )


class SequenceMaker:
    """Makes training sequences of any kind from one split of a tokenised corpus."""

    def __init__(self, tokenizer, split: TokenSplit) -> None:
        self._writer = PasskeyWriter(tokenizer)
        self._bos = tokenizer.bos_token_id
        self._eos = tokenizer.eos_token_id
        self._documents = [document.tokens for document in split]
        if not self._documents:
            raise UserError(f"{split.folder}: no documents to train on")
        self._lengths = np.array([len(tokens) for tokens in self._documents])

    def batch(
        self,
        mixture: dict[str, float],
        sequences: int,
        length: int,
        seed: int,
        step: int,
        stream: int = 0,
    ) -> Batch:
        """The batch of one step: `sequences` sequences of `length` tokens, kinds drawn by share.

        A step that has several batches gives each its `stream`.
        """
        rng = np.random.default_rng([seed, step, stream])
        shares = np.array(list(mixture.values()))
        kinds = rng.choice(list(mixture), size=sequences, p=shares / shares.sum())
        made = [self.sequence(str(kind), length, rng) for kind in kinds]
        tokens, weights = (np.stack(each) for each in zip(*made, strict=True))
        return Batch(tokens, weights, tuple(map(str, kinds)))

    def sequence(
        self, kind: str, length: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One sequence (length,) and its weights (length,)."""
        if kind == "text":
            return self._text(length, rng)
        if kind == "passage":
            return self._segment(length, rng), np.ones(length, np.float32)
        if kind == "copy":
            return self._copy(length, rng)
        if kind.startswith("dense-"):
            return self._dense(int(kind.removeprefix("dense-")), length, rng)
        filler = self._segment(length, rng) if rng.random() < 0.5 else None
        intro = length >= SHORTEST_WITH_INTRO
        document = self._writer.write(length, random_key(kind, rng), rng, filler, intro=intro)
        weights = np.ones(length, np.float32)
        weights[len(document.prompt) :] = ANSWER_WEIGHT
        return np.concatenate([document.prompt, document.answer]), weights

    def _segment(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """A run of `length` tokens of one document, every position of the corpus alike."""
        room = np.maximum(self._lengths - length + 1, 0)
        if not room.sum():
            raise UserError(
                f"no training document has {length} tokens (longest: {self._lengths.max()}):"
                " add longer documents, set the corpus's join_to, or train at a shorter length"
            )
        position = int(rng.integers(room.sum()))
        document = int(np.searchsorted(np.cumsum(room), position, side="right"))
        start = position - int(room[:document].sum())
        return self._documents[document][start : start + length].astype(np.int64)

    def _text(self, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        ids = self._segment(length, rng)
        if self._bos is not None:
            ids[0] = self._bos
        if self._eos is not None:
            ids[-1] = self._eos
        return ids, np.ones(length, np.float32)

    def _copy(self, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        piece = self._segment(int(rng.integers(min(8, length // 2), length // 2 + 1)), rng)
        ids = np.resize(piece, length)
        weights = np.ones(length, np.float32)
        weights[: len(piece)] = OTHER_WEIGHT
        return ids, weights

    def _dense(
        self, digits: int, length: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        order, known = rng.permutation(len(WORDS)), {}
        ids, weights = [], []
        while len(ids) < length:
            repeat = bool(known) and (rng.random() < 0.5 or len(known) == len(WORDS))
            word = int(rng.choice(list(known))) if repeat else int(order[len(known)])
            if not repeat:
                known[word] = random_key(f"digits-{digits}", rng)
            value = self._writer.continuation(f" {known[word]}")
            claim = self._writer.continuation(f" {WORDS[word]} is")
            statement = [*claim, *value, *self._writer.continuation(".")]
            ids += statement
            weight = np.full(len(statement), OTHER_WEIGHT, np.float32)
            if repeat:
                weight[-len(value) - 1 : -1] = 1.0
            weights += weight.tolist()
        return np.array(ids[:length], np.int64), np.array(weights[:length], np.float32)
