"""
How much is held at a time, and what happens where memory ends: shorter pieces, and then one message
that says what to lower.

Catchable is what an allocator says: a GPU's, or a CPU's under a limit (`ulimit -v`, or no
overcommit). A kernel that has promised memory it has not got kills the process instead. Imports
nothing heavy.
"""

import gc
import sys
from collections.abc import Callable

from longrope.errors import UserError

# Numbers of a widest result at a time. A CPU reuses memory for small results; for large ones it
# asks the system for empty pages each time, which takes longer than the arithmetic.
SMALL, LARGE = 1 << 20, 1 << 25  # 4 and 128 MiB in float32
LEAST = 256  # tokens at a time, and multiples of it: fewer would read the weights too often
HALVINGS = 4
WHOLE = 1 << 18  # tokens of prompt and key up to which a passkey is generated, with a cache
SAID = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
GIB = 1 << 30


def rows_of(width: int, numbers: int = LARGE) -> int:
    """How many tokens are worked on at a time, where each makes `width` numbers at its widest."""
    return max(1, numbers // width // LEAST) * LEAST


def is_generated(length: int) -> bool:
    """Whether the answer to a passkey of a length is generated, with a cache. Longer ones are read
    off one forward pass: a cache would not fit, and chunks of a prompt would need masks, which
    exclude flash attention."""
    return length <= WHOLE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator has refused memory, on a GPU or a CPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in SAID)


def within_memory(model, run: Callable, shape: tuple[int, int], *, training: bool = False):
    """What `run()` returns, which forwards sequences of a shape (B, T) through a model.

    Where memory ends it is called again, with pieces half as long, a few times; then UserError.
    """
    from longrope.parallel.place import here
    from longrope.pieces import pieces_of

    pieces = pieces_of(model)
    while True:
        try:
            return run()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            said = " ".join(str(error).split()) or type(error).__name__
        _let_go()  # here, where the error no longer holds the frames and their tensors
        # Ranks that run together, in a training all of them, cannot each try again.
        alone = (here().world if training else here().per_sequence) == 1
        if not alone or not pieces.halve():
            raise UserError(_advice(model, pieces, shape, training, said))
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


def _advice(model, pieces, shape: tuple[int, int], training: bool, said: str) -> str:
    """What was tried, what to lower, what the plan counts for it."""
    rows, tokens = shape
    recompute = getattr(model, "is_activation_checkpointing", False)
    if training:
        ways = [f"lower micro_batch (now {rows} sequences held at a time)"] if rows > 1 else []
        ways.append(f"lower the tuning's length (now {tokens:,} tokens)")
        ways += [] if recompute else ["turn on activation checkpointing"]
    else:
        ways = [f"lower the window or length of what is run (now {tokens:,} tokens)"]
        ways += ["set source.precision to bfloat16"] if model.dtype.itemsize == 4 else []
    ways.append("take a device with more memory")
    least = 2 ** max(0, pieces.halved - 1)
    tried = f", in pieces of 1/{least} of the usual length, too" if least > 1 else ""
    return (
        f"out of memory at {rows} x {tokens:,} tokens{tried} ({said[:200]}): {', or '.join(ways)}."
        f"{_planned(model, rows * tokens, training, recompute)} `longrope plan` says what every"
        " job needs"
    )


def _planned(model, tokens: int, training: bool, recompute: bool) -> str:
    from longrope.plan import cost
    from longrope.plan.architecture import of_config

    width = model.dtype.itemsize
    try:
        known = of_config(model.config.to_dict(), "the model")
    except UserError:  # not Llama-like
        return ""
    if training:
        needed = cost.training_memory(known, tokens, width, recompute=recompute)
    else:
        needed = cost.inference_memory(known, tokens, width)
    return f" Planned for this are {needed / GIB:.1f} GiB;"
