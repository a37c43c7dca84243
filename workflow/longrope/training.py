"""
The one training loop: pre-training and fine-tuning both run it, on whatever accelerate finds.

A step takes a batch that is a function of the step's number, sums the weighted loss in chunks
without holding logits, and divides by the weights of the whole batch, so accumulation changes
memory and never the result. Progress is checkpointed in a state directory: a run that was killed
goes on from there and ends with the weights of an uninterrupted one. Sharding wraps the model
that is handed in; nothing here knows about it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from longrope.config.training import LoopSettings
from longrope.errors import UserError
from longrope.files import append_line, replacing, resume_lines, write_lines
from longrope.losses import token_losses
from longrope.memory import within_memory
from longrope.mixture import Batch
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
        gradient; the first token is no target."""
        losses_BT = token_losses(self.model, tokens_BT) * weights_BT[:, 1:]
        return losses_BT.sum(), losses_BT.detach().sum(1)


def train(
    model,
    optimisers: list[torch.optim.Optimizer],
    batch_at: Callable[[int], Batch],
    rate: Rate,
    settings: LoopSettings,
    state: Path,
    *,
    micro_batch: int | None = None,
    describe: str = "training",
    on_metrics: Callable[[dict], None] = lambda record: None,
) -> list[dict]:
    """Train `model` in place for `rate.steps` steps; returns the metrics, one record a step.

    `batch_at(step)` gives the data of a step; `micro_batch` sequences are held at a time. The
    learning rates of the optimisers are those of `rate` = 1. Metrics and checkpoints are kept in
    `state`, from where an interrupted run goes on.
    """
    AcceleratorState._reset_state()  # else one process keeps the precision of its first training
    accelerator = Accelerator(mixed_precision="bf16" if settings.precision == "bfloat16" else "no")
    if accelerator.num_processes > 1:
        raise UserError(
            f"training runs in one process so far, this is one of {accelerator.num_processes}:"
            " start it without torchrun or accelerate launch"
        )
    model.train()
    prepared, *optimisers = accelerator.prepare(WeightedLoss(model), *optimisers)
    forward = torch.compile(prepared) if settings.compile else prepared
    peak = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    metrics_path, checkpoint = state / "metrics.jsonl", state / "checkpoint.pt"
    start, metrics = _resume(checkpoint, metrics_path, model, optimisers, accelerator.device)

    def gradients(batch: Batch) -> tuple[float, list[float]]:
        """Leave those of a whole batch; returns its loss, and the sums of its sequences."""
        for optimiser in optimisers:
            optimiser.zero_grad()  # what a try left that ran out of memory
        total, size = float(batch.weights[:, 1:].sum()), micro_batch or len(batch.tokens)
        loss_sum, sums = 0.0, []
        for first in range(0, len(batch.tokens), size):
            tokens_BT, weights_BT = (
                torch.from_numpy(array[first : first + size]).to(accelerator.device)
                for array in (batch.tokens, batch.weights)
            )
            with accelerator.autocast():
                loss, sums_B = forward(tokens_BT, weights_BT)
                loss = loss / total
            accelerator.backward(loss)
            sums += sums_B.tolist()
            loss_sum += loss.item()
        return loss_sum, sums

    progress = Progress(describe, rate.steps, start)
    tokens, seconds = 0, 0.0
    for step in range(start, rate.steps):
        began, multiplier = time.monotonic(), rate.at(step)
        for optimiser, rates in zip(optimisers, peak, strict=True):
            for group, value in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = value * multiplier
        batch = batch_at(step)
        shape = micro_batch or len(batch.tokens), batch.tokens.shape[1]
        try:
            loss_sum, sums = within_memory(model, partial(gradients, batch), shape, training=True)
        except UserError:
            if step > start:  # to go on from with other settings
                _save(checkpoint, step, model, optimisers)
            raise
        if not math.isfinite(loss_sum):
            raise FloatingPointError(f"the loss of step {step + 1} is {loss_sum}")
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        record = {
            "step": step + 1,
            "loss": loss_sum,
            **_losses_by_kind(batch, sums),
            "rate": multiplier * peak[0][0],
            "gradient_norm": float(norm),
            "tokens": batch.tokens.size,
            "seconds": round(time.monotonic() - began, 4),
        }
        tokens, seconds = tokens + record["tokens"], seconds + record["seconds"]
        append_line(metrics_path, record)
        on_metrics(record)
        metrics.append(record)
        progress.update(step + 1, f"loss {loss_sum:.3f}, {tokens / seconds:,.0f} tokens/s")
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == rate.steps:
            _save(checkpoint, step + 1, model, optimisers)
    progress.close()
    return metrics


def _losses_by_kind(batch: Batch, sums: list[float]) -> dict[str, float]:
    """`loss_KIND`: the mean loss of the sequences of each kind in a batch, in nats a token.

    A step that holds more passkeys has a lower loss; that of its text does not move with it.
    """
    total: dict[str, float] = {}
    weight: dict[str, float] = {}
    for kind, value, weights in zip(batch.kinds, sums, batch.weights[:, 1:], strict=True):
        total[kind] = total.get(kind, 0.0) + value
        weight[kind] = weight.get(kind, 0.0) + float(weights.sum())
    return {f"loss_{kind}": total[kind] / weight[kind] for kind in total if weight[kind]}


def _save(path: Path, step: int, model, optimisers) -> None:
    with replacing(path) as draft:
        torch.save(
            {
                "step": step,
                "model": model.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            },
            draft,
        )


def _resume(path: Path, metrics_path: Path, model, optimisers, device) -> tuple[int, list[dict]]:
    """The step to go on from, and the metrics before it; what came after is dropped."""
    if not path.exists():
        metrics_path.unlink(missing_ok=True)
        return 0, []
    saved = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(saved["model"])
    for optimiser, optimiser_state in zip(optimisers, saved["optimisers"], strict=True):
        optimiser.load_state_dict(optimiser_state)
    metrics = [record for record in resume_lines(metrics_path) if record["step"] <= saved["step"]]
    write_lines(metrics_path, metrics)
    return saved["step"], metrics
