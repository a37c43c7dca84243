"""
The passkey document: a key hidden in filler, asked for at the end (Mohtashami & Jaggi 2023).

The paper's retrieval test (section 4.2) and the training data of models too small to retrieve
without seeing such documents both write it here, to the letter of the paper's template and to an
exact number of tokens. Text is tokenised line by line and joined as tokens.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from longrope.errors import UserError

INTRO = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize"
    " them. I will quiz you about the important information there."
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
STATEMENT = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"

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
        self._answers: dict[str, np.ndarray] = {}

    def encode(self, text: str) -> np.ndarray:
        """Token ids of `text`, with no special tokens."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    @cached_property
    def _intro(self) -> np.ndarray:
        return np.concatenate([np.array(self._bos, np.int64), self.encode(INTRO + "\n")])

    @cached_property
    def _filler(self) -> np.ndarray:
        return self.encode(FILLER + " ")

    @cached_property
    def _question(self) -> np.ndarray:
        return self.encode("\n" + QUESTION)

    def answer(self, key: str) -> np.ndarray:
        """The tokens of `key` as they continue the question."""
        if key not in self._answers:
            whole = self.encode(f"\n{QUESTION} {key}")
            self._answers[key] = whole[len(self._question) :]
        return self._answers[key]

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
        statement = self.encode("\n" + STATEMENT.format(key=key) + "\n")
        answer = self.answer(key)
        start = self._intro if intro else self._intro[: len(self._bos)]
        fixed = len(start) + len(statement) + len(self._question) + len(answer)
        room = length - fixed
        if room < 0:
            raise UserError(f"a passkey document takes {fixed} tokens, the window has {length}")
        unit = len(self._filler) if filler is None else 1
        repeats = room // unit
        before = int(rng.integers(0, repeats + 1)) if depth is None else round(depth * repeats)
        cut = before * unit
        if filler is None:
            stream = np.tile(self._filler, repeats + 1)
            # What is over goes before the question, and ends with the filler's last sentence.
            first, second = stream[:cut], stream[len(stream) - (room - cut) :]
        else:
            first, second = filler[:cut], filler[cut:room]
        prompt = np.concatenate([start, first, statement, second, self._question])
        return Prompt(prompt, answer, key, before / repeats if repeats else 0.0)
