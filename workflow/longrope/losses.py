"""
The loss of every token of a sequence, without a KV cache and without holding logits.

The body of the model runs once; head and cross-entropy run over pieces of the sequence, so that
memory grows with the hidden states and not with sequence x vocabulary. Under autograd each piece
is recomputed in the backward pass, where there is more than one. (torch's own
`linear_cross_entropy` in chunks takes 2 to 4 times as long on a CPU, and its bfloat16 losses are
off by up to 0.04 nats.)

Shapes: B sequences, T tokens, C of them in this rank's slice, D hidden size, V vocabulary.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from longrope.memory import within_memory
from longrope.models.architectures import body_of
from longrope.parallel.place import here
from longrope.parallel.sequence import fill_up, part_of
from longrope.pieces import pieces_of


def token_losses(model, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Loss in nats of tokens 1..T-1 given those before: (B, T-1), float32.

    Without gradients it is tried again in shorter pieces where memory ends; with them whoever runs
    the backward pass must do so. Where several ranks hold a sequence together, each computes its
    slice, and all get the whole.
    """
    if torch.is_grad_enabled():
        losses = slice_losses(model, tokens_BT)
    else:
        losses = within_memory(model, lambda: slice_losses(model, tokens_BT), tokens_BT.shape)
    return _join(losses, tokens_BT.shape[1] - 1)


def slice_losses(model, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Those of `token_losses` whose inputs this rank holds: of tokens first + 1 to last, at most
    T-1, of its slice. On one rank all of them."""
    hidden_BCD, labels_BC = _run_body(model, tokens_BT)
    head = model.get_output_embeddings()
    hidden_ND, labels_N = hidden_BCD.flatten(0, 1), labels_BC.flatten()
    rows = pieces_of(model).rows(head.weight.shape[0], hidden_ND.device)
    recompute = len(hidden_ND) > rows and torch.is_grad_enabled() and hidden_ND.requires_grad
    pieces = []
    for hidden, labels in zip(hidden_ND.split(rows), labels_N.split(rows), strict=True):
        piece = (hidden, head.weight, head.bias, labels)
        if recompute:
            pieces.append(checkpoint(_piece, *piece, use_reentrant=False))
        else:
            pieces.append(_piece(*piece))
    return torch.cat(pieces).view(labels_BC.shape)


@torch.no_grad()
def predictions(model, tokens_BT: torch.Tensor, count: int) -> torch.Tensor:
    """The most likely token, (B, count), for each of the last `count`, given all before it."""
    length = tokens_BT.shape[1]

    def run() -> torch.Tensor:
        hidden_BCD, _ = _run_body(model, tokens_BT)
        first, _ = part_of(length)
        wanted = hidden_BCD[:, max(0, length - 1 - count - first) :]
        return model.get_output_embeddings()(wanted).argmax(-1)

    found_BN = within_memory(model, run, tokens_BT.shape)
    if here().per_sequence == 1:
        return found_BN
    parts = here().gather_team(found_BN.cpu())
    return torch.cat(parts, dim=1).to(tokens_BT.device)


def _run_body(model, tokens_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden states (B, C, D) that this rank has targets (B, C) for, and those."""
    body, last_target = body_of(model), tokens_BT.shape[1] - 1
    if here().per_sequence == 1:
        hidden_BTD = body(input_ids=tokens_BT, use_cache=False).last_hidden_state
        return hidden_BTD[:, :-1], tokens_BT[:, 1:]
    first, end = part_of(tokens_BT.shape[1])
    filled_BT = fill_up(tokens_BT, end)
    places = torch.arange(first, end, device=tokens_BT.device)[None]
    hidden_BCD = body(
        input_ids=filled_BT[:, first:end], position_ids=places, use_cache=False
    ).last_hidden_state
    targets = max(0, min(end, last_target) - first)
    return hidden_BCD[:, :targets], tokens_BT[:, first + 1 : first + 1 + targets]


def _join(losses_BC: torch.Tensor, targets: int) -> torch.Tensor:
    """The losses of all slices, in their order."""
    place = here()
    if place.per_sequence == 1:
        return losses_BC
    first, end = part_of(targets + 1)
    filled_BC = fill_up(losses_BC.float(), end - first).contiguous()
    slices = [torch.empty_like(filled_BC) for _ in range(place.per_sequence)]
    dist.all_gather(slices, filled_BC, group=place.peers)
    return torch.cat(slices, dim=1)[:, :targets]


def _piece(hidden_ND, head_VD, bias_V, labels_N) -> torch.Tensor:
    logits_NV = F.linear(hidden_ND, head_VD, bias_V)
    return F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
