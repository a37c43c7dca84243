"""
A long sequence in pieces, where it takes memory for its length alone.

Norms, MLPs and the head treat every token alone, and on the way to what they return they make
results several times as wide. `prepare` lets the norms and MLPs of a model run on some tokens at a
time, to the same values; `losses` does so with the head. With gradients each piece is computed
again in the backward pass, so nothing wide is kept. What is not known to treat every token alone,
such as a mixture of experts, is left as it is.

Shapes: N tokens of all sequences, D numbers a token.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from longrope.models.architectures import body_of
from longrope.portions import LARGE, SMALL, rows_of

HALVINGS = 4  # times at most that pieces become half as long
NORMS = ("RMSNorm", "LayerNorm")  # how the classes of norms over the last dimension end


class Pieces:
    """How many tokens are worked on at a time: one for all of a model, halved for all at once."""

    def __init__(self) -> None:
        self.halved = 0

    def halve(self) -> bool:
        """Make pieces half as long from now on; False if they are short already."""
        self.halved += 1
        return self.halved <= HALVINGS

    def rows(self, width: int, device: torch.device) -> int:
        """How many tokens, where each makes `width` numbers at its widest."""
        small = device.type == "cpu" and not torch.is_grad_enabled()
        return max(1, rows_of(width, SMALL if small else LARGE) >> self.halved)

    def run(self, module: Callable, width: int, x: torch.Tensor) -> torch.Tensor:
        """What a module makes of all tokens of `x` (..., D), piece by piece."""
        rows = self.rows(max(width, x.shape[-1]), x.device)
        if math.prod(x.shape[:-1]) <= rows:
            return module(x)
        parts = x.flatten(0, -2).split(rows)
        if torch.is_grad_enabled():
            out_ND = torch.cat([checkpoint(module, part, use_reentrant=False) for part in parts])
        else:
            out_ND, first = None, 0
            for part_ND in parts:
                made_ND = module(part_ND)
                if out_ND is None:
                    out_ND = made_ND.new_empty(x.shape[:-1].numel(), made_ND.shape[-1])
                out_ND[first : first + rows] = made_ND
                first += rows
        return out_ND.view(*x.shape[:-1], -1)


def prepare(model) -> None:
    """Run the norms and MLPs of a model in pieces from now on."""
    pieces = pieces_of(model)
    for name, module in body_of(model).named_modules():
        width = _width(name.rpartition(".")[2], module)
        if width is not None:
            module.forward = partial(pieces.run, module.forward, width)


def pieces_of(model) -> Pieces:
    """Those that all parts of a model share."""
    if not hasattr(model, "pieces"):
        model.pieces = Pieces()
    return model.pieces


def _width(name: str, module: nn.Module) -> int | None:
    """The most numbers that a module makes of a token (0: as many as it takes), None where it may
    not treat every token alone."""
    children = list(module.modules())[1:]
    if not children:
        return 0 if type(module).__name__.endswith(NORMS) else None
    linears = [each for each in children if isinstance(each, nn.Linear)]
    known = {parameter for each in linears for parameter in each.parameters()}
    if name == "mlp" and len(linears) in (2, 3) and known == set(module.parameters()):
        return max(each.out_features for each in linears)
    return None
