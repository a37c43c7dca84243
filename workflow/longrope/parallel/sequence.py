"""
One long sequence over several ranks, each of which holds a slice of it.

All but attention treats every token alone. For attention the ranks exchange slices for heads
(DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509): each then has the whole sequence for some
of the heads, runs the usual kernel, and the results are exchanged back. So the work of causal
attention is the same on every rank, and 1/S of the sequence is all that a rank keeps between
layers. A sequence that the ranks do not divide is filled up at its end, which no token before sees;
heads that they do not divide are filled up with zeros, which are dropped again.

Shapes: S ranks, B sequences, T tokens, C tokens a rank, H heads (K of keys and values), D numbers a
head.
"""

import math
from functools import cache

import torch
import torch.distributed as dist
import torch.nn.functional as F

from longrope.errors import UserError
from longrope.parallel.place import Place, here

NAME = "longrope_sequence"  # of the attention, as transformers registers it


def part_of(length: int) -> tuple[int, int]:
    """First and last place, exclusive, of this rank's slice of a sequence; all are as long, so the
    last ones may reach beyond its end."""
    place = here()
    each = math.ceil(length / place.per_sequence)
    return place.part * each, (place.part + 1) * each


def fill_up(tokens_BT: torch.Tensor, length: int) -> torch.Tensor:
    """Sequences of at least `length` tokens."""
    return F.pad(tokens_BT, (0, max(0, length - tokens_BT.shape[1])))


def spread_attention(model) -> None:
    """Let a model attend over the slices of all ranks of a team; UserError where it cannot."""
    if here().per_sequence == 1:
        return
    config, kernel = model.config, model.config._attn_implementation
    if kernel == NAME:
        return
    layers = getattr(config, "layer_types", None) or ()
    if getattr(config, "sliding_window", None) or "sliding_attention" in layers:
        raise UserError(
            f"{type(model).__name__} has layers with a sliding window, which one sequence over"
            " several processes does not support: set --per-sequence 1"
        )
    _register()
    model.set_attn_implementation(NAME)
    config.longrope_kernel = kernel


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # causal, no mask


def attend(
    module,
    query_BHCD: torch.Tensor,
    key_BKCD: torch.Tensor,
    value_BKCD: torch.Tensor,
    attention_mask: None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more,
) -> tuple[torch.Tensor, None]:
    """Causal attention over the slices of all ranks; (B, C, H, D), as transformers expects."""
    place, heads = here(), query_BHCD.shape[1]
    query, key, value = match_heads(query_BHCD, key_BKCD, value_BKCD, place.per_sequence)
    whole = [to_heads(each, place) for each in (query, key, value)]
    kernel = module.config.longrope_kernel
    if kernel == "sdpa":
        query, key, value = whole
        repeat = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeat, dim=1) for each in (key, value))
        out_BHTD = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=scaling, is_causal=True
        )
    else:
        from transformers import AttentionInterface

        run = AttentionInterface()[kernel]
        out_BTHD, _ = run(module, *whole, None, dropout=dropout, scaling=scaling, **more)
        out_BHTD = out_BTHD.transpose(1, 2)
    out_BHCD = to_slices(out_BHTD, place)[:, :heads]
    return out_BHCD.transpose(1, 2), None


def match_heads(query, key, value, ranks: int) -> tuple[torch.Tensor, ...]:
    """The same attention with numbers of heads that the ranks divide, as few as can be."""
    heads, groups = query.shape[1], key.shape[1]
    repeat = ranks // math.gcd(groups, ranks)
    if heads % ranks or heads % (groups * repeat):
        repeat, missing = heads // groups, -heads % ranks
    else:
        missing = 0
    if repeat > 1:
        key, value = (each.repeat_interleave(repeat, dim=1) for each in (key, value))
    if missing:
        query, key, value = (F.pad(each, (0, 0, 0, 0, 0, missing)) for each in (query, key, value))
    return query, key, value


def to_heads(x_BHCD: torch.Tensor, place: Place) -> torch.Tensor:
    """Slices of all heads -> whole sequences of this rank's heads, (B, H / S, S C, D)."""
    ranks = place.per_sequence
    rows, heads, length, size = x_BHCD.shape
    sent = x_BHCD.view(rows, ranks, heads // ranks, length, size).permute(1, 0, 2, 3, 4)
    got_SBHCD = Exchange.apply(sent.contiguous(), place.peers)
    return got_SBHCD.permute(1, 2, 0, 3, 4).reshape(rows, heads // ranks, ranks * length, size)


def to_slices(x_BHTD: torch.Tensor, place: Place) -> torch.Tensor:
    """Whole sequences of this rank's heads -> its slice of all heads, (B, S H, T / S, D)."""
    ranks = place.per_sequence
    rows, heads, length, size = x_BHTD.shape
    sent = x_BHTD.view(rows, heads, ranks, length // ranks, size).permute(2, 0, 1, 3, 4)
    got_SBHCD = Exchange.apply(sent.contiguous(), place.peers)
    return got_SBHCD.permute(1, 0, 2, 3, 4).reshape(rows, ranks * heads, length // ranks, size)


class Exchange(torch.autograd.Function):
    """Row s of the first dimension goes to rank s; what comes from rank s becomes row s."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, group) -> torch.Tensor:
        ctx.group = group
        return _exchange(x, group)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _exchange(gradient.contiguous(), ctx.group), None


def _exchange(x: torch.Tensor, group) -> torch.Tensor:
    got = torch.empty_like(x)
    # As bytes: gloo does not know every type.
    dist.all_to_all_single(got.view(torch.uint8), x.view(torch.uint8), group=group)
    return got
