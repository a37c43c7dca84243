"""
The one training loop: pre-training and fine-tuning both run it, on whatever accelerate finds.

A step takes batches that are a function of the step's number (`gradients` has what it makes of
them). What trains are the weights that ask for a gradient. Progress is checkpointed in a state
directory: a run that was killed goes on from there and ends with the weights of an uninterrupted
one. Over several processes (`parallel`) the weights are sharded; all of what is logged is of the
whole.
"""

import contextlib
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from longrope.parallel import sharding
from longrope.parallel.place import here
from longrope.parallel.sequence import spread_attention
from longrope.progress import Progress
from longrope.training.gradients import Gradients, WeightedLoss
from longrope.training.mixture import Batch


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


class Optimisers:
    """Those of a training, with learning rates that are those of a `Rate` = 1."""

    def __init__(self, optimisers: list[torch.optim.Optimizer]) -> None:
        self.all = optimisers
        self._peaks = [[group["lr"] for group in each.param_groups] for each in optimisers]

    def step(self, multiplier: float) -> float:
        """Change the weights by their gradients, at rates times `multiplier`; returns the first of
        these rates."""
        for each, peaks in zip(self.all, self._peaks, strict=True):
            for group, peak in zip(each.param_groups, peaks, strict=True):
                group["lr"] = peak * multiplier
            each.step()
            each.zero_grad()
        return self._peaks[0][0] * multiplier


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
    remedies: Sequence[str] = (),
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
    sequences: torch.compile gives attention a mask of T x T. `remedies` are what a user can lower
    where memory ends.

    All ranks must call it. Raises UserError if the teams of ranks do not divide a step's sequences.
    """
    place, alone = here(), here().world == 1
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    accelerator, wrapped = _wrap(model, settings.precision)
    optimisers = Optimisers(make_optimisers())  # before a checkpoint brings the rates of its step
    forward = torch.compile(wrapped) if compiled else wrapped
    gradients = Gradients(model, forward, accelerator, micro_batch, prepare, remedies)

    def save(step: int) -> None:
        sharding.save(state, step, wrapped, optimisers.all)

    metrics_path = state / "metrics.jsonl"
    start = sharding.load(state, wrapped, optimisers.all)
    metrics = place.once(lambda: _metrics_up_to(metrics_path, start))
    progress = Progress(describe, rate.steps, start)
    tokens, seconds = 0, 0.0
    # Several ranks would have to agree on a step: they lose what came after the last checkpoint.
    heed = asked_to_stop() if alone else contextlib.nullcontext(lambda: False)
    with heed as asked:
        for step in range(start, rate.steps):
            if asked():
                save(step)
                raise KeyboardInterrupt
            began = time.monotonic()
            batches = batches_at(step)
            try:
                loss, by_kind = gradients.of_step(batches)
            except UserError:
                # To go on from with other settings. Of several ranks one may fail alone: it cannot
                # wait for the others to save with it.
                if step > start and alone:
                    save(step)
                raise
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss of step {step + 1} is {loss}")
            norm = _clip(model.parameters(), settings.clip)
            record = {
                "step": step + 1,
                "loss": loss,
                **by_kind.means(),
                "rate": optimisers.step(rate.at(step)),
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
            progress.update(step + 1, f"loss {loss:.3f}, {tokens / seconds:,.0f} tokens/s")
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == rate.steps:
                save(step + 1)
    progress.close()
    return metrics


def _wrap(model, precision: str) -> tuple[Accelerator, nn.Module]:
    """The model on its device, or sharded, ready to train, as a module whose forward is its loss;
    and what lowers its activations."""
    AcceleratorState._reset_state()  # else one process keeps the precision of its first training
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bfloat16" else "no")
    model.train()
    spread_attention(model)
    # Not for accelerate to spread over processes, which `sharding` does.
    wrapped = accelerator.prepare_model(
        WeightedLoss(model), device_placement=here().world == 1, evaluation_mode=True
    )
    sharding.shard(wrapped, model, accelerator.device)
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    return accelerator, wrapped


def _clip(parameters, limit: float) -> float:
    """Scale the gradients so that their norm is at most `limit`; returns what it was."""
    norm = nn.utils.clip_grad_norm_(parameters, limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


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
