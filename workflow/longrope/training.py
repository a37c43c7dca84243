"""
The one training loop: pre-training and fine-tuning both run it, on whatever accelerate finds.

A step takes batches that are a function of the step's number, sums the weighted loss in chunks
without holding logits, and divides by the weights of the whole step, so accumulation changes
memory and never the result. What trains are the weights that ask for a gradient. Progress is
checkpointed in a state directory: a run that was killed goes on from there and ends with the
weights of an uninterrupted one.

Over several processes (`parallel`) the weights are sharded, each team of ranks takes its share of a
step's sequences, and each rank of a team a slice of them; all of what is logged is of the whole.
"""

import contextlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.tensor import DTensor

from longrope.config.training import LoopSettings
from longrope.errors import UserError
from longrope.files import append_line, resume_lines, write_lines
from longrope.interrupts import asked_to_stop
from longrope.losses import slice_losses
from longrope.memory import within_memory
from longrope.mixture import Batch
from longrope.parallel import sharding
from longrope.parallel.place import here
from longrope.parallel.sequence import part_of, spread_attention
from longrope.progress import Progress


@dataclass(frozen=True, slots=True)
class Rate:
    """How the learning rate goes: warm-up, constant, linear fall."""

    steps: int
    warmup: int  # steps of linear rise
    hold: float  # constant up to this share of the steps
    final: float  # share of the rate at the end

    def at(self, step: int) -> float:
        """What the rate is multiplied with at a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        held = max(self.hold * self.steps, self.warmup)
        if step < held:
            return rise
        fallen = (step - held) / max(1.0, self.steps - held)
        return rise * (1 - (1 - self.final) * fallen)


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


def train(
    model,
    make_optimisers: Callable[[], list[torch.optim.Optimizer]],
    batches_at: Callable[[int], Sequence[Batch]],
    rate: Rate,
    settings: LoopSettings,
    state: Path,
    *,
    micro_batch: int | None = None,
    compiled: bool = False,
    prepare: Callable[[Batch], None] = lambda part: None,
    describe: str = "training",
    on_metrics: Callable[[dict], None] = lambda record: None,
) -> list[dict]:
    """Train `model` in place for `rate.steps` steps; returns the metrics, one record a step.

    `batches_at(step)` gives the data of a step, the longest sequences first; `micro_batch` of
    those are held at a time, of shorter ones as many tokens. `prepare` is called with each such
    part before its forward pass, to tell the model what is particular about it. The optimisers are
    made once the model's parameters are those that train; their learning rates are those of `rate`
    = 1. Metrics and checkpoints are kept in `state`, from where an interrupted run goes on; one
    process that is asked to stop ends after the step that it is at. `compiled` is for short
    sequences: torch.compile gives attention a mask of T x T.

    All ranks must call it. Raises UserError if the teams of ranks do not divide a step's sequences.
    """
    place = here()
    AcceleratorState._reset_state()  # else one process keeps the precision of its first training
    accelerator = Accelerator(mixed_precision="bf16" if settings.precision == "bfloat16" else "no")
    model.train()
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    spread_attention(model)
    # Not for accelerate to spread over processes, which `sharding` does.
    alone = place.world == 1
    wrapped = accelerator.prepare_model(
        WeightedLoss(model), device_placement=alone, evaluation_mode=True
    )
    sharding.shard(wrapped, model, accelerator.device)
    optimisers = make_optimisers()
    forward = torch.compile(wrapped) if compiled else wrapped
    peak = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    metrics_path = state / "metrics.jsonl"
    start = sharding.load(state, wrapped, optimisers)
    metrics = place.once(lambda: _metrics_up_to(metrics_path, start))
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)

    def gradients(batches: Sequence[Batch], mine: Sequence[Batch]) -> tuple[float, LossesByKind]:
        """Leave those of a whole step, of which `mine` are this team's; returns its loss, and that
        of each kind of sequence."""
        for optimiser in optimisers:
            optimiser.zero_grad()  # what a try left that ran out of memory
        total = sum(float(batch.weights[:, 1:].sum()) for batch in batches)
        loss_sum, by_kind = 0.0, LossesByKind()
        for part in _parts(mine, micro_batch):
            tokens_BT, weights_BT = (
                torch.from_numpy(array).to(accelerator.device)
                for array in (part.tokens, part.weights)
            )
            prepare(part)
            with accelerator.autocast():
                loss, sums_B = forward(tokens_BT, weights_BT)
                loss = loss / total
            accelerator.backward(loss * place.world)  # sharding takes the mean over ranks
            by_kind.add(part, sums_B.tolist())
            loss_sum += loss.item()
        return sum_over_ranks(loss_sum, by_kind)

    progress = Progress(describe, rate.steps, start)
    tokens, seconds = 0, 0.0
    # Several ranks would have to agree on a step: they lose what came after the last checkpoint.
    heed = asked_to_stop() if place.world == 1 else contextlib.nullcontext(lambda: False)
    with heed as asked:
        for step in range(start, rate.steps):
            if asked():
                sharding.save(state, step, wrapped, optimisers)
                raise KeyboardInterrupt
            began, multiplier = time.monotonic(), rate.at(step)
            for optimiser, rates in zip(optimisers, peak, strict=True):
                for group, value in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = value * multiplier
            batches = batches_at(step)
            mine = _share(batches)
            shape = next(_parts(mine, micro_batch)).tokens.shape  # no other part is larger
            run = partial(gradients, batches, mine)
            try:
                loss_sum, by_kind = within_memory(model, run, shape, training=True)
            except UserError:
                # To go on from with other settings. Of several ranks one may fail alone: it cannot
                # wait for the others to save with it.
                if step > start and place.world == 1:
                    sharding.save(state, step, wrapped, optimisers)
                raise
            if not math.isfinite(loss_sum):
                raise FloatingPointError(f"the loss of step {step + 1} is {loss_sum}")
            norm = _clip(model.parameters(), settings.clip)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
            record = {
                "step": step + 1,
                "loss": loss_sum,
                **by_kind.means(),
                "rate": multiplier * peak[0][0],
                "gradient_norm": norm,
                "tokens": sum(batch.tokens.size for batch in batches),
                "seconds": round(time.monotonic() - began, 4),
                "peak_memory": max(place.gather(peak_memory(accelerator.device))),
                "trained_parameters": trained,
            }
            tokens, seconds = tokens + record["tokens"], seconds + record["seconds"]
            if place.leads:
                append_line(metrics_path, record)
                on_metrics(record)
            metrics.append(record)
            progress.update(step + 1, f"loss {loss_sum:.3f}, {tokens / seconds:,.0f} tokens/s")
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == rate.steps:
                sharding.save(state, step + 1, wrapped, optimisers)
    progress.close()
    return metrics


def _share(batches: Sequence[Batch]) -> list[Batch]:
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


def _clip(parameters, limit: float) -> float:
    """Scale the gradients so that their norm is at most `limit`; returns what it was."""
    norm = nn.utils.clip_grad_norm_(parameters, limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _parts(batches: Sequence[Batch], micro_batch: int | None) -> Iterator[Batch]:
    """What is held at a time: so many of the longest sequences, of shorter ones as many tokens."""
    longest = batches[0].tokens.shape[1]
    for batch in batches:
        sequences, length = batch.tokens.shape
        yield from batch.split(micro_batch * longest // length if micro_batch else sequences)


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


def sum_over_ranks(loss: float, by_kind: LossesByKind) -> tuple[float, LossesByKind]:
    """The loss of a whole step and those of its kinds, of what every rank has of them."""
    parts = here().gather((loss, by_kind))
    whole = LossesByKind()
    for _, each in parts:
        whole.merge(each)
    return sum(loss for loss, _ in parts), whole


def peak_memory(device: torch.device) -> int:
    """Bytes held at the most so far: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _metrics_up_to(path: Path, step: int) -> list[dict]:
    """The metrics of the first so many steps; what came after is dropped. UserError if one of them
    is not there: they are written before the checkpoint of their step."""
    metrics = [record for record in resume_lines(path) if record["step"] <= step]
    if len(metrics) < step:
        raise UserError(
            f"{path}: damaged, it has {len(metrics)} of the first {step} steps; delete"
            f" {path.parent} and run its stage again"
        )
    write_lines(path, metrics)
    return metrics
