"""
What happens where memory ends: shorter pieces, and then one message that says what to lower.

Catchable is what an allocator says: a GPU's, or a CPU's under a limit (`ulimit -v`, or no
overcommit). A kernel that has promised memory it has not got kills the process instead. Imports
nothing heavy.
"""

import gc
import sys
from collections.abc import Callable, Sequence

from longrope.errors import UserError, one_line

SAID = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator has refused memory, on a GPU or a CPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in SAID)


def within_memory(
    model,
    run: Callable,
    shape: tuple[int, int],
    *,
    ranks: int | None = None,
    remedies: Sequence[str] | None = None,
):
    """What `run()` returns, which forwards sequences of a shape (B, T) through a model.

    Where memory ends it is called again, with pieces half as long, a few times; then UserError.
    `ranks` run it in step with one another, by default those that share a sequence. `remedies` are
    what the user can do, by default what helps where nothing trains.
    """
    from longrope.parallel.place import here
    from longrope.pieces import pieces_of

    pieces = pieces_of(model)
    alone = (here().per_sequence if ranks is None else ranks) == 1
    while True:
        try:
            return run()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            said = one_line(error, 200)
        _let_go()  # here, where the error no longer holds the frames and their tensors
        if not alone or not pieces.halve():  # several ranks cannot each try again
            ways = _lower_scores(model, shape[1]) if remedies is None else remedies
            raise UserError(_advice(pieces.halved, shape, ways, said))
        print(
            f"out of memory at {shape[0]} x {shape[1]:,} tokens; again in pieces of 1/"
            f"{2**pieces.halved} of the usual length",
            file=sys.stderr,
            flush=True,
        )


def _let_go() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _lower_scores(model, tokens: int) -> list[str]:
    """What helps where nothing trains."""
    ways = [f"lower the window or length of what is run (now {tokens:,} tokens)"]
    return ways + (["set source.precision to bfloat16"] if model.dtype.itemsize == 4 else [])


def _advice(halved: int, shape: tuple[int, int], ways: Sequence[str], said: str) -> str:
    """What was tried, and what to lower."""
    least = 2 ** max(0, halved - 1)
    tried = f", in pieces of 1/{least} of the usual length, too" if least > 1 else ""
    return (
        f"out of memory at {shape[0]} x {shape[1]:,} tokens{tried} ({said}):"
        f" {', or '.join([*ways, 'take a device with more memory'])}. `longrope plan` says what"
        " every job needs"
    )
