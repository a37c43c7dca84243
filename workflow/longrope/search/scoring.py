"""
The fitness of factors: the model's loss at the target length on validation documents.

One window of a document each, teacher-forced, every token scored; the mean over tokens, in nats
(its exponential is the perplexity that the paper minimises). The windows are drawn once.
"""

from typing import Protocol

import numpy as np
import torch

from longrope.corpus import TokenSplit
from longrope.factors import RescaleFactors
from longrope.losses import token_losses
from longrope.rope import install


class Scorer(Protocol):
    """Gives factors a score; lower is better."""

    tokens: int  # tokens that one score takes

    def score(self, factors: RescaleFactors) -> float:
        """The fitness of factors."""
        ...


class LossScorer:
    """Mean loss in nats a token over one window of each of some documents."""

    def __init__(
        self, model, rope, split: TokenSplit, window: int, documents: int, rng: np.random.Generator
    ) -> None:
        self._model = model
        self._rotary = install(model, rope)
        found = split.at_least(window, documents, f"a search at {window} tokens")
        self._windows = []
        for document in found:
            start = int(rng.integers(0, len(document.tokens) - window + 1))
            ids = np.asarray(document.tokens[start : start + window], dtype=np.int64)
            self._windows.append(torch.from_numpy(ids)[None].to(model.device))
        self.documents = [document.id for document in found]
        self.tokens = window * documents

    @torch.no_grad()
    def score(self, factors: RescaleFactors) -> float:
        """The mean loss under `factors`."""
        self._rotary.use([factors])
        losses = [
            token_losses(self._model, window).double().mean().item() for window in self._windows
        ]
        return float(np.mean(losses))
