"""
The fitness of factors: losses of the model at the target length, on validation documents.

A sample is one window of one validation document, teacher-forced, and the passkey documents that
go with it. Of a sample three losses can be taken, each a mean over tokens in nats:

    perplexity   every token of the window (the fitness of the paper)
    needle       the answers' tokens of passkeys hidden in documents of the same length, and no
                 other token (as LongRoPE2 means it); half of them are hidden in text
    long_tokens  the window's tokens that long context helps (Fang et al. 2024, LongPPL)

The fitness is their weighted sum. Windows and keys are drawn once. So are the tokens that long
context helps, with fixed factors, so that no candidate picks its own test: those whose loss after
the whole window is below a bound, and lower, by a given number of nats, than after as much context
as the weights were made for.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from longrope.baselines import closed_form
from longrope.config.search import Fitness
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope
from longrope.losses import token_losses
from longrope.parallel.place import here
from longrope.parallel.sequence import spread_attention
from longrope.passkey import PasskeyWriter, random_key
from longrope.rope import install

KEY = "digits-5"  # the kind of key in a needle


@dataclass(frozen=True, slots=True)
class Score:
    """What factors are worth on one sample, or on several by `mean_score`; lower is better."""

    fitness: float  # what the search minimises; inf where the model's loss is not finite
    losses: dict[str, float]  # measure -> nats a token; those with a weight, and perplexity


def mean_score(scores: list[Score]) -> Score:
    """The means over samples."""
    fitness = sum(score.fitness for score in scores) / len(scores)
    measures = scores[0].losses.keys() if scores else ()
    losses = {
        measure: sum(score.losses[measure] for score in scores) / len(scores)
        for measure in measures
    }
    return Score(fitness, losses)


class Scorer(Protocol):
    """Gives factors a score."""

    samples: int  # how many there are
    tokens: int  # tokens forwarded for one score
    tokens_before: int  # and once, before the first

    def score(self, factors: RescaleFactors, sample: int) -> Score:
        """The worth of factors on one sample."""
        ...


Trial = tuple[RescaleFactors, int]  # factors, and the sample that they are scored on


class Crew:
    """Scores trials, side by side where there are several teams of ranks.

    Rank 0 searches; the others score what it hands out until it is done. Each trial is scored by
    one team alone, so what it is worth does not depend on how many there are.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.width = here().teams  # trials that take as long as one

    def score(self, trials: list[Trial]) -> list[Score]:
        """The worth of each, on rank 0."""
        here().share(trials)
        return self._work(trials)

    def follow(self) -> None:
        """Score for rank 0, on every other rank."""
        while (trials := here().share()) is not None:
            self._work(trials)

    def dismiss(self) -> None:
        """Let the other ranks go, on rank 0."""
        here().share(None)

    def _work(self, trials: list[Trial]) -> list[Score]:
        return here().deal(trials, lambda trial: self._scorer.score(*trial))


@dataclass(frozen=True, slots=True)
class Needle:
    """A passkey document."""

    tokens: torch.Tensor  # (1, T)
    answer: int  # its last so many tokens are the key


class LossScorer:
    """Losses on windows of validation documents, one document a sample."""

    def __init__(
        self,
        model,
        rope: Rope,
        split: TokenSplit,
        window: int,
        documents: int,
        fitness: Fitness,
        rng: np.random.Generator,
        writer: PasskeyWriter | None = None,
        tuned: RescaleFactors | None = None,
    ) -> None:
        """`writer` writes the needles, if the fitness has any; `tuned` are the weights' factors.

        Raises UserError if the split has too few documents of that length, or if long context
        helps none of their tokens where they are part of the fitness.
        """
        self._model, self._rotary = model, install(model, rope)
        spread_attention(model)
        self._window, self._rng, self._fitness = window, rng, fitness
        found = split.at_least(window, documents, f"a search at {window} tokens")
        self._texts = [self._draw(document.tokens) for document in found]
        self.documents = [document.id for document in found]
        self.samples = documents
        self.tokens = window
        self.tokens_before = 0  # tokens forwarded once, before any score
        self._needles: list[list[Needle]] = []
        self._helped: list[torch.Tensor] = []
        if fitness.needle:
            self._needles = [
                [
                    self._hide(writer, document.tokens, sample, number)
                    for number in range(fitness.needles)
                ]
                for sample, document in enumerate(found)
            ]
            self.tokens += window * fitness.needles
        if fitness.long_tokens:
            self._helped = self._choose_long_tokens(rope, tuned)

    @torch.no_grad()
    def score(self, factors: RescaleFactors, sample: int) -> Score:
        """The losses under `factors` on one sample."""
        self._rotary.use([factors])
        fitness, losses = self._fitness, {}
        text = token_losses(self._model, self._texts[sample])[0].double()
        losses["perplexity"] = text.mean().item()
        if fitness.needle:
            answers = [self._answer_loss(needle) for needle in self._needles[sample]]
            losses["needle"] = sum(answers) / len(answers)
        if fitness.long_tokens:
            losses["long_tokens"] = text[self._helped[sample]].mean().item()
        worth = sum(getattr(fitness, measure) * loss for measure, loss in losses.items())
        return Score(worth if math.isfinite(worth) else math.inf, losses)

    def _answer_loss(self, needle: Needle) -> float:
        losses = token_losses(self._model, needle.tokens)[0, -needle.answer :]
        return losses.double().mean().item()

    def _draw(self, tokens: np.ndarray) -> torch.Tensor:
        start = int(self._rng.integers(0, len(tokens) - self._window + 1))
        ids = np.asarray(tokens[start : start + self._window], dtype=np.int64)
        return torch.from_numpy(ids)[None].to(self._model.device)

    def _hide(self, writer: PasskeyWriter, tokens: np.ndarray, sample: int, number: int) -> Needle:
        """The needle `number` of a sample; together the needles of all samples cover all depths,
        one in each of as many equal parts: most failures of bad factors are far from the question.
        """
        place = (number * self.samples + sample + self._rng.random()) / (
            self.samples * self._fitness.needles
        )
        filler = self._draw(tokens)[0].cpu().numpy() if (number + sample) % 2 else None
        key = random_key(KEY, self._rng)
        made = writer.write(self._window, key, self._rng, filler, depth=place)
        ids = torch.from_numpy(np.concatenate([made.prompt, made.answer]))[None]
        return Needle(ids.to(self._model.device), len(made.answer))

    @torch.no_grad()
    def _choose_long_tokens(self, rope: Rope, tuned: RescaleFactors | None) -> list[torch.Tensor]:
        """Which targets (T-1,) of every text the long context helps; none of the first window's.

        Both criteria of LongPPL (Fang et al. 2024, arXiv 2410.23771), with these weights in place
        of another model to judge: the loss falls by `helped_by`, to below `known_below`. The short
        context is the window that the weights were made for, slid by half of itself, with the
        factors they were made with.
        """
        short = tuned.window if tuned else rope.original_window
        if self._window <= short:
            raise UserError(
                f"fitness.long_tokens: {self._window} tokens are no longer context than the"
                f" {short} of the weights; leave it out of this search's fitness"
            )
        fixed = closed_form(self._fitness.long_with, rope, self._window, on=tuned)
        plain = tuned or closed_form("none", rope, short)
        chosen, step = [], max(1, short // 2)
        for text in self._texts:
            self._rotary.use([fixed])
            loss = token_losses(self._model, text)[0]
            gain = -loss
            self.tokens_before += self._window
            self._rotary.use([plain])
            gain[: short - 1] = -math.inf
            for done in range(short, self._window, step):
                end = min(done + step, self._window)
                losses = token_losses(self._model, text[:, end - short : end])[0]
                gain[done - 1 : end - 1] += losses[done - end :]
                self.tokens_before += short
            helped = (gain >= self._fitness.helped_by) & (loss < self._fitness.known_below)
            chosen.append(helped)
        if not all(each.any() for each in chosen):
            raise UserError(
                f"fitness.long_tokens: {self._window} tokens of context help no token of a"
                f" validation window by {self._fitness.helped_by:g} nats to a loss below"
                f" {self._fitness.known_below:g}: lower fitness.helped_by, or raise known_below"
            )
        return chosen
