"""
The fitness of factors: the model's loss at the target length on validation documents.

One window of a document each, teacher-forced, every token scored; the mean over tokens, in nats
(its exponential is the perplexity that the paper minimises). Perplexity alone hardly sees whether
a model still retrieves, so passkey documents of the same length may be added: their keys' loss,
times a weight. All windows and keys are drawn once.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from longrope.corpus import TokenSplit
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope
from longrope.losses import token_losses
from longrope.passkey import PasskeyWriter, random_key
from longrope.rope import install

KEY = "digits-5"  # the kind of key in a needle


@dataclass(frozen=True, slots=True)
class Score:
    """What factors are worth; lower is better."""

    fitness: float  # what the search minimises
    loss: float  # nats a token of text
    needle_loss: float | None = None  # nats a token of the keys


class Scorer(Protocol):
    """Gives factors a score."""

    tokens: int  # tokens that one score takes

    def score(self, factors: RescaleFactors) -> Score:
        """The worth of factors."""
        ...


class LossScorer:
    """Mean loss over one window of each of some documents, and of keys hidden in some others."""

    def __init__(
        self,
        model,
        rope: Rope,
        split: TokenSplit,
        window: int,
        documents: int,
        rng: np.random.Generator,
    ) -> None:
        self._model = model
        self._rotary = install(model, rope)
        self._rng = rng
        self._window = window
        self._found = split.at_least(window, documents, f"a search at {window} tokens")
        self._windows = [self._draw(document.tokens) for document in self._found]
        self._needles: list[tuple[torch.Tensor, int]] = []  # document, tokens of its key
        self._weight = 0.0
        self.documents = [document.id for document in self._found]
        self.tokens = window * documents

    def add_needles(self, writer: PasskeyWriter, count: int, weight: float) -> None:
        """Score `count` passkey documents too; every second has text instead of the filler."""
        for number in range(count):
            tokens = self._found[number // 2 % len(self._found)].tokens
            filler = self._draw(tokens)[0].cpu().numpy() if number % 2 else None
            made = writer.write(self._window, random_key(KEY, self._rng), self._rng, filler)
            ids = torch.from_numpy(np.concatenate([made.prompt, made.answer]))[None]
            self._needles.append((ids.to(self._model.device), len(made.answer)))
        self._weight = weight
        self.tokens += self._window * count

    @torch.no_grad()
    def score(self, factors: RescaleFactors) -> Score:
        """The mean losses under `factors`."""
        self._rotary.use([factors])
        loss = np.mean([self._loss(window) for window in self._windows])
        if not np.isfinite(loss):
            raise UserError(
                f"the model's loss is {loss} at {self._window} tokens: its weights or its precision"
                " do not carry so far"
            )
        if not self._needles:
            return Score(float(loss), float(loss))
        needle = np.mean([self._loss(document, answer) for document, answer in self._needles])
        return Score(float(loss + self._weight * needle), float(loss), float(needle))

    def _loss(self, tokens_1T: torch.Tensor, last: int | None = None) -> float:
        losses_T = token_losses(self._model, tokens_1T)[0]
        return losses_T[-last:].double().mean().item() if last else losses_T.double().mean().item()

    def _draw(self, tokens: np.ndarray) -> torch.Tensor:
        start = int(self._rng.integers(0, len(tokens) - self._window + 1))
        ids = np.asarray(tokens[start : start + self._window], dtype=np.int64)
        return torch.from_numpy(ids)[None].to(self._model.device)
