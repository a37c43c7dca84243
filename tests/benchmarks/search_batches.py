"""
Does it pay to score several candidates as one batch, each row with factors of its own?

    python tests/benchmarks/search_batches.py --model results/tiny/base/model --windows 1k 2k

Times the same losses of four closed forms one after the other and as four rows, in turn, so that
other load meets both alike. Prints the median of the ratios: above 1, the batch is faster.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from longrope.baselines import closed_form
from longrope.losses import token_losses
from longrope.models.checkpoint import load_model, read_record
from longrope.rope import install
from longrope.windows import parse_window, window_label

FORMS = ("ntk", "yarn", "llama3", "mrrope-pro")


def main() -> None:
    """One line a window."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint of the workflow")
    parser.add_argument("--windows", type=parse_window, nargs="+", default=[1024, 2048])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    record, model = read_record(options.model), load_model(options.model)
    rotary = install(model, record.rope)
    print(f"{record.rope.model}, {model.device.type}, {torch.get_num_threads()} threads")
    for window in options.windows:
        rows = [closed_form(form, record.rope, window) for form in FORMS]
        tokens = torch.randint(0, model.config.vocab_size, (1, window), device=model.device)

        def singly(rows=rows, tokens=tokens):
            for row in rows:
                rotary.use([row])
                token_losses(model, tokens).sum().item()

        def together(rows=rows, tokens=tokens):
            rotary.use(rows)
            token_losses(model, tokens.expand(len(rows), -1)).sum().item()

        ratios = [seconds(singly) / seconds(together) for _ in range(options.repeats + 1)][1:]
        print(f"{window_label(window)}: one batch of {len(FORMS)} is {median(ratios):.2f} times as"
              f" fast ({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


@torch.no_grad()
def seconds(run) -> float:
    """Of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
