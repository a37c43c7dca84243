"""
The loss of every token of a sequence, without a KV cache and without holding logits.

The body of the model runs once; head and cross-entropy run over pieces of the sequence, so that
memory grows with the hidden states and not with sequence x vocabulary. Under autograd each piece
is recomputed in the backward pass, where there is more than one. (torch's own
`linear_cross_entropy` in chunks takes 2 to 4 times as long on a CPU, and its bfloat16 losses are
off by up to 0.04 nats.)

Shapes: B sequences, T tokens, D hidden size, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from longrope.architectures import body_of
from longrope.memory import within_memory
from longrope.pieces import pieces_of


def token_losses(model, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Loss in nats of tokens 1..T-1 given those before: (B, T-1), float32.

    Without gradients it is tried again in shorter pieces where memory ends; with them whoever runs
    the backward pass must do so.
    """
    if torch.is_grad_enabled():
        return _token_losses(model, tokens_BT)
    return within_memory(model, lambda: _token_losses(model, tokens_BT), tokens_BT.shape)


def _token_losses(model, tokens_BT: torch.Tensor) -> torch.Tensor:
    hidden_BTD = body_of(model)(input_ids=tokens_BT, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    hidden_ND = hidden_BTD[:, :-1].flatten(0, 1)
    labels_N = tokens_BT[:, 1:].flatten()
    rows = pieces_of(model).rows(head.weight.shape[0], hidden_ND.device)
    recompute = len(hidden_ND) > rows and torch.is_grad_enabled() and hidden_ND.requires_grad
    pieces = []
    for hidden, labels in zip(hidden_ND.split(rows), labels_N.split(rows), strict=True):
        piece = (hidden, head.weight, head.bias, labels)
        if recompute:
            pieces.append(checkpoint(_piece, *piece, use_reentrant=False))
        else:
            pieces.append(_piece(*piece))
    return torch.cat(pieces).view(tokens_BT.shape[0], -1)


def _piece(hidden_ND, head_VD, bias_V, labels_N) -> torch.Tensor:
    logits_NV = F.linear(hidden_ND, head_VD, bias_V)
    return F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
