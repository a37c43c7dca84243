"""
The passkey document: a key hidden in filler, asked for at the end (Mohtashami & Jaggi 2023).

The paper's retrieval test (section 4.2) and the training data of models too small to retrieve
without seeing such documents both write it here, to the letter of the paper's template and to an
exact number of tokens. Text is tokenised line by line and joined as tokens.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from longrope.errors import UserError

INTRO = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize"
    " them. I will quiz you about the important information there."
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
STATEMENT = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"

ANCHOR = "."  # text before a piece that is encoded as it follows other text

WORDS = tuple(
    """
    apple arrow basket beacon bell bird boat book bottle branch bread bridge bucket butter button
    candle carpet castle chain chair cheese clock cloud coat coin copper cotton crown cup desk dish
    door drum eagle engine feather fence field flag flower forest fork fountain garden gate glass
    glove gold hammer harbor hat honey horse house island jacket jewel kettle key kitchen ladder
    lamp lantern leaf lemon letter lion market meadow mirror moon mountain needle orange paper pearl
    pencil piano pillow plate pocket pond potato ribbon ring river road rope saddle salt ship silver
    spoon star stone storm sugar table thread tower
    """.split()
)


def random_key(kind: str, rng: np.random.Generator) -> str:
    """A key of a kind: `digits-K` (K digits, the first not 0) or `word` (one of 100 words)."""
    if kind == "word":
        return str(rng.choice(WORDS))
    digits = int(kind.removeprefix("digits-"))
    return str(rng.integers(10 ** (digits - 1), 10**digits))


@dataclass(frozen=True, slots=True)
class Prompt:
    """One passkey document, ready for a model."""

    prompt: np.ndarray  # token ids up to and including the question
    answer: np.ndarray  # token ids of the key, as they continue the question
    key: str
    depth: float  # where the key stands: 0 = after the introduction, 1 = before the question


class PasskeyWriter:
    """Writes passkey documents in the tokens of one tokenizer."""

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.continuation = lru_cache(maxsize=4096)(self._continuation)

    def encode(self, text: str) -> np.ndarray:
        """Token ids of `text` as it begins a document, with no special tokens."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    def _continuation(self, text: str) -> np.ndarray:
        """Token ids of `text` as it follows other text: with no blank put before it."""
        whole, anchor = self.encode(ANCHOR + text), self.encode(ANCHOR)
        if not np.array_equal(whole[: len(anchor)], anchor):
            raise UserError(
                f"this tokenizer joins {ANCHOR!r} with what follows ({text[:20]!r}):"
                " passkey documents cannot be put together from its tokens"
            )
        return whole[len(anchor) :]

    @cached_property
    def _intro(self) -> np.ndarray:
        return np.concatenate([np.array(self._bos, np.int64), self.encode(INTRO)])

    def write(
        self,
        length: int,
        key: str,
        rng: np.random.Generator,
        filler: np.ndarray | None = None,
        depth: float | None = None,
        intro: bool = True,
    ) -> Prompt:
        """A document whose prompt and answer are `length` tokens together, exactly.

        The key stands after a uniformly drawn number of fillers, or at `depth` (0 to 1). `filler`
        replaces the paper's sentences by other tokens, at least `length` of them; without `intro`
        the document starts at the filler. Raises UserError if `length` is too short.
        """
        start = self._intro if intro else self._intro[: len(self._bos)]
        newline = self.continuation("\n")
        statement = self.continuation("\n" + STATEMENT.format(key=key))
        question = self.continuation("\n" + QUESTION)
        answer = self.continuation(f" {key}")
        fixed = sum(map(len, (start, newline, statement, newline, question, answer)))
        room = length - fixed
        if room < 0:
            raise UserError(f"a passkey document takes {fixed} tokens, the window has {length}")
        first, later = self.continuation(FILLER), self.continuation(" " + FILLER)
        unit = len(later) if filler is None else 1
        repeats = room // unit
        before = int(rng.integers(0, repeats + 1)) if depth is None else round(depth * repeats)
        if filler is None:
            # The first of a row of fillers has no blank before it. What is over goes after the
            # key: the end of a filler, so that a full stop comes before the question.
            above = np.concatenate([first, *[later] * (before - 1)]) if before else first[:0]
            below = np.tile(later, repeats + 1)
            below = below[len(below) - (room - len(above)) :]
        else:
            above, below = filler[:before], filler[before:room]
        prompt = np.concatenate([start, newline, above, statement, newline, below, question])
        return Prompt(prompt, answer, key, before / repeats if repeats else 0.0)
