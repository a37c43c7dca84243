"""
How much of a device's matrix rate does scoring reach?

    python tests/benchmarks/scoring_rate.py --model results/tiny/base/model --lengths 1k 4k 16k

Measures the rate of a large matrix product in the precision that the model runs in, then the losses
of one sequence of each length, as a search and an evaluation compute them, with YaRN's factors.
Prints tokens and FLOPs a second, and the share of the matrix rate; FLOPs as `longrope plan` counts
them. Each number is the best of the repeats: other work only slows down.
"""

import argparse
import time
from pathlib import Path

import torch

from longrope.baselines import closed_form
from longrope.files import read_json
from longrope.losses import token_losses
from longrope.models.checkpoint import device, load_model, read_record
from longrope.plan.architecture import of_config
from longrope.plan.cost import forward
from longrope.rope import install
from longrope.windows import parse_window, window_label

SIZE = {"cpu": 1024, "cuda": 8192}  # of the square matrices


def main() -> None:
    """One line a length, after the matrix rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint of the workflow")
    parser.add_argument("--lengths", type=parse_window, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    record, model = read_record(options.model), load_model(options.model)
    config = options.model / "config.json"
    shape = of_config(read_json(config), str(config))
    rotary, where = install(model, record.rope), device()
    name = torch.cuda.get_device_name() if where.type == "cuda" else "CPU"
    side = SIZE[where.type]
    matrix = torch.randn(side, side, device=where, dtype=model.dtype)
    rate = 2 * side**3 / best(lambda: matrix @ matrix, 10)
    print(f"{record.rope.model} in {str(model.dtype).removeprefix('torch.')} on {name},"
          f" {torch.get_num_threads()} threads; matrices: {rate / 1e12:.3g} TFLOP/s")  # fmt: skip
    print("length      seconds     tokens/s     TFLOP/s     of the matrix rate")
    for length in options.lengths:
        rotary.use([closed_form("yarn", record.rope, max(length, record.rope.original_window + 1))])
        tokens = torch.randint(0, model.config.vocab_size, (1, length), device=where)
        seconds = best(lambda tokens=tokens: token_losses(model, tokens), options.repeats)
        reached = forward(shape, length).total / seconds
        print(f"{window_label(length):>6} {seconds:12.3f} {length / seconds:12,.0f}"
              f" {reached / 1e12:11.3g} {reached / rate:22.2%}")  # fmt: skip


@torch.no_grad()
def best(run, repeats: int) -> float:
    """Seconds of the fastest of some calls, after one that warms up."""
    took = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return min(took[1:])


if __name__ == "__main__":
    main()
