"""
The first call of every vector function on a CPU, made by one thread alone.

torch hands cos, sin, exp and others of long float tensors to oneMKL, a part to each thread. The
oneMKL in torch's wheels chooses the kernel of a function while it is called first; where several
threads call it first at the same time, one of them may get a kernel of low accuracy for that call
(https://github.com/pytorch/pytorch/issues/188792). Without what is here, the logits of a process's
first forward pass are now and then wrong by up to 0.002: docs/decisions.md has how often.
"""

import functools

FUNCTIONS = "acos asin atan cos exp expm1 log log10 log1p log2 sin sqrt tan tanh".split()


@functools.cache
def settle_kernels() -> None:
    """Call each function once in float32 and in float64, on one number: one thread does it."""
    import torch

    for dtype in (torch.float32, torch.float64):
        number = torch.tensor([0.5], dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(number)
