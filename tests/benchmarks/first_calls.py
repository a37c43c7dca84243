"""
How often the first forward pass of a process differs from the second one, on two threads or more.

    python tests/benchmarks/first_calls.py CHECKPOINT --seconds 200

For every process forked from one that has loaded a checkpoint and computed nothing: the largest
difference of a logit between its first and its second call on the same tokens, once as transformers
runs it and once after `longrope.first_calls.settle_kernels`. The difference comes of how threads
meet, so it is rare on a quiet machine.
"""

import argparse
import os
import time

import torch
from transformers import AutoModelForCausalLM

from longrope.first_calls import settle_kernels

LENGTH = 255  # tokens: two threads share the angles from a few thousand numbers on
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--seconds", type=float, default=200, help="for each of the two")
    options = parser.parse_args()
    torch.set_num_threads(1)  # no thread of this process is there to be forked
    model = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    ids = torch.arange(LENGTH)[None] % model.config.vocab_size
    for name, first in (("as it is", lambda: None), ("settled", settle_kernels)):
        count, wrong, worst, end = 0, 0, 0.0, time.monotonic() + options.seconds
        while time.monotonic() < end:
            found = difference(model, ids, first)
            count, wrong, worst = count + 1, wrong + (found > 0), max(worst, found)
        print(f"{name}: {wrong} of {count} processes differ, by {worst:.1g} at most", flush=True)


def difference(model, ids: torch.Tensor, first) -> float:
    """Between the logits of two calls in a process of its own, which calls `first` before."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(THREADS)
        first()
        with torch.no_grad():
            once, again = (model(ids, use_cache=False).logits for _ in range(2))
        os.write(writer, repr((once - again).abs().max().item()).encode())
        os._exit(0)
    os.close(writer)
    found = float(os.read(reader, 100))
    os.close(reader)
    os.waitpid(child, 0)
    return found


if __name__ == "__main__":
    main()
