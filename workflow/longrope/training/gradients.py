"""
The gradients of one step of a training, and its loss by kind of sequence.

The weighted loss is summed in parts, without holding logits, and divided by the weights of the
whole step, so accumulation changes memory and never the result. Over several processes each team of
ranks takes its share of the sequences, and each rank of a team a slice of them; what is returned is
of the whole.

Shapes: B sequences, T tokens, C of the targets in this rank's slice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn

from longrope.errors import UserError
from longrope.losses import slice_losses
from longrope.memory import within_memory
from longrope.parallel.place import here
from longrope.parallel.sequence import part_of
from longrope.training.mixture import Batch


class WeightedLoss(nn.Module):
    """A causal language model whose forward is its loss: what sharding and compiling wrap."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens_BT: torch.Tensor, weights_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of weight * loss (nats) over a batch, and that of each sequence, (B,), without a
        gradient; the first token is no target. Of this rank's slice of the sequences alone."""
        losses_BC = slice_losses(self.model, tokens_BT) * slice_targets(weights_BT)
        return losses_BC.sum(), losses_BC.detach().sum(1)


def slice_targets(x_BT):
    """Of a value for every token, those of the targets of this rank's slice."""
    first, end = part_of(x_BT.shape[1])
    return x_BT[:, 1:][:, first:end]


class LossesByKind:
    """The mean loss of the sequences of each kind in a step, in nats a token.

    A step that holds more passkeys has a lower loss; that of its text does not move with it.
    """

    def __init__(self) -> None:
        self._loss: dict[str, float] = {}
        self._weight: dict[str, float] = {}

    def add(self, part: Batch, sums: list[float]) -> None:
        """Count the summed loss of every sequence; those with the original RoPE stand apart."""
        for kind, loss, weights in zip(part.kinds, sums, slice_targets(part.weights), strict=True):
            name = f"loss_{'short_' if part.original else ''}{kind}"
            self._count(name, loss, float(weights.sum()))

    def merge(self, other: "LossesByKind") -> None:
        """Count those of another rank."""
        for name, weight in other._weight.items():
            self._count(name, other._loss[name], weight)

    def _count(self, name: str, loss: float, weight: float) -> None:
        self._loss[name] = self._loss.get(name, 0.0) + loss
        self._weight[name] = self._weight.get(name, 0.0) + weight

    def means(self) -> dict[str, float]:
        """`loss_KIND`, or `loss_short_KIND`, of every kind that has targets."""
        return {name: self._loss[name] / weight for name, weight in self._weight.items() if weight}


@dataclass(frozen=True)
class Gradients:
    """How the gradients of a step are made."""

    model: nn.Module  # whose they are
    forward: Callable  # of `WeightedLoss`, perhaps sharded or compiled
    accelerator: Accelerator
    micro_batch: int | None = None  # of the longest sequences are held at a time; None: all
    prepare: Callable[[Batch], None] = lambda part: None  # called before each part's forward pass
    remedies: Sequence[str] = ()  # what can be lowered where memory ends

    def of_step(self, batches: Sequence[Batch]) -> tuple[float, LossesByKind]:
        """Leave those of a whole step in the model; returns its loss, and that of each kind.

        All ranks must call it. Where memory ends, the step is made again, in shorter pieces, and
        then UserError; so, too, if the teams of ranks do not divide the sequences.
        """
        mine = share(batches)
        shape = next(parts(mine, self.micro_batch)).tokens.shape  # no other part is larger
        run = partial(self._whole, batches, mine)
        ranks = here().world  # whose weights lie on all
        return within_memory(self.model, run, shape, ranks=ranks, remedies=self.remedies)

    def _whole(self, batches: Sequence[Batch], mine: Sequence[Batch]) -> tuple[float, LossesByKind]:
        """The same, of which `mine` are this team's sequences."""
        self.model.zero_grad()  # what a try left that ran out of memory
        total = sum(float(batch.weights[:, 1:].sum()) for batch in batches)
        loss_sum, by_kind = 0.0, LossesByKind()
        for part in parts(mine, self.micro_batch):
            tokens_BT, weights_BT = (
                torch.from_numpy(array).to(self.accelerator.device)
                for array in (part.tokens, part.weights)
            )
            self.prepare(part)
            with self.accelerator.autocast():
                loss, sums_B = self.forward(tokens_BT, weights_BT)
                loss = loss / total
            self.accelerator.backward(loss * here().world)  # sharding takes the mean over ranks
            by_kind.add(part, sums_B.tolist())
            loss_sum += loss.item()
        return sum_over_ranks(loss_sum, by_kind)


def share(batches: Sequence[Batch]) -> list[Batch]:
    """The sequences of a step that this rank's team takes."""
    place = here()
    if place.teams == 1:
        return list(batches)
    for batch in batches:
        if len(batch.tokens) % place.teams:
            raise UserError(
                f"a step has {len(batch.tokens)} sequences of {batch.tokens.shape[1]:,} tokens,"
                f" which {place.teams} teams of processes cannot share: take a batch that is a"
                " multiple of it, fewer processes, or more --per-sequence"
            )
    return [batch.rows(slice(place.team, None, place.teams)) for batch in batches]


def parts(batches: Sequence[Batch], micro_batch: int | None) -> Iterator[Batch]:
    """What is held at a time: so many of the longest sequences, of shorter ones as many tokens."""
    longest = batches[0].tokens.shape[1]
    for batch in batches:
        sequences, length = batch.tokens.shape
        yield from batch.split(micro_batch * longest // length if micro_batch else sequences)


def sum_over_ranks(loss: float, by_kind: LossesByKind) -> tuple[float, LossesByKind]:
    """The loss of a whole step and those of its kinds, of what every rank has of them."""
    gathered = here().gather((loss, by_kind))
    whole = LossesByKind()
    for _, each in gathered:
        whole.merge(each)
    return sum(loss for loss, _ in gathered), whole
