"""
How much faster is a stage in two processes, and how much of its time is communication?

    python tests/benchmarks/scaling.py --model results/tiny/base/model --length 2k --rounds 3

Times a training step (weights sharded) and scoring on random tokens, one thread a process: in one
process, in two that share the sequences (data), in two that share each sequence. Strong: the same
work; weak: twice the work. All ways take turns, round after round, so that other work on the
machine meets all of them; the fastest round counts. Prints seconds, the speed as a multiple of one
process, and the share of time in collectives, as torch's profiler sees them on rank 0, waiting for
the other included.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from longrope.baselines import closed_form
from longrope.losses import token_losses
from longrope.models.checkpoint import load_model, read_record
from longrope.parallel.place import here, is_rank, join, leave
from longrope.parallel.sequence import spread_attention
from longrope.parallel.sharding import shard
from longrope.rope import install
from longrope.training.gradients import WeightedLoss
from longrope.windows import parse_window

WAYS = (  # name, processes, processes a sequence, times the work of one
    ("one process", 1, 1, 1),
    ("two, data, strong", 2, 1, 1),
    ("two, sequence, strong", 2, 2, 1),
    ("two, data, weak", 2, 1, 2),
    ("two, sequence, weak", 2, 2, 2),
)
COLLECTIVES = ("gloo:", "nccl:")  # how the profiler's events of them begin


def main() -> None:
    """All ways in turn, then a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint of the workflow")
    parser.add_argument("--length", type=parse_window, default=2048)
    parser.add_argument("--batch", type=int, default=2, help="sequences of a step in one process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        measure(options)
        return
    found = [[run(way) for way in range(len(WAYS))] for _ in range(options.rounds)]
    name = read_record(options.model).rope.model
    print(f"{name}, {options.batch} sequences of {options.length:,}"
          f" tokens in one process, torch {torch.__version__}, {os.cpu_count()} cores")  # fmt: skip
    for what in ("training step", "scoring"):
        print(f"\n{what:24}  seconds  times one  in collectives")
        best = [min(each[way][what] for each in found) for way in range(len(WAYS))]
        for (name, *_, work), (seconds, share) in zip(WAYS, best, strict=True):
            print(f"{name:24} {seconds:8.3f} {work * best[0][0] / seconds:10.2f} {share:15.0%}")


def run(way: int) -> dict[str, list[float]]:
    """Measure one way in processes of its own."""
    processes, command = WAYS[way][1], [*sys.argv, "--way", str(way)]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, *command]
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> None:
    """What this process takes for its part of one way; rank 0 prints it."""
    _name, _processes, per_sequence, work = WAYS[options.way]
    if is_rank():
        join(per_sequence, patience=300)
    record, rows = read_record(options.model), options.batch * work
    factors = closed_form("yarn", record.rope, max(options.length, record.rope.original_window + 1))
    tokens = torch.randint(
        0, 100, (rows, options.length), generator=torch.Generator().manual_seed(0)
    )
    mine = tokens[here().team :: here().teams].split(1)

    def loaded(for_training: bool):
        model = load_model(options.model, for_training=for_training)
        install(model, record.rope).use([factors])
        spread_attention(model)
        return model

    model = loaded(for_training=False)

    @torch.no_grad()
    def score() -> None:
        for part in mine:
            token_losses(model, part.to(model.device))

    found = {"scoring": timed(score)}
    model = loaded(for_training=True).train()
    wrapped = WeightedLoss(model)
    shard(wrapped, model, model.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        for part in mine:
            part = part.to(model.device)
            wrapped(part, torch.ones_like(part))[0].backward()
        optimiser.step()
        optimiser.zero_grad()

    found["training step"] = timed(step)
    if here().leads:
        print(json.dumps(found))
    leave()


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the fastest of three calls, after one that warms up; the share in collectives."""
    work()
    took = []
    for _ in range(3):
        here().gather(None)  # all begin together
        began = time.monotonic()
        work()
        took.append(time.monotonic() - began)
    here().gather(None)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.monotonic()
        work()
        whole = time.monotonic() - began
    waited = sum(
        event.cpu_time_total
        for event in profiler.key_averages()
        if event.key.startswith(COLLECTIVES)
    )
    return min(took), waited / 1e6 / whole


if __name__ == "__main__":
    main()
