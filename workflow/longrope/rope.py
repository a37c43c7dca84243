"""
RoPE as LongRoPE rescales it, put into a model that transformers built.

Pair i of position n turns by n / theta^(2i/d) where n < n_hat, and by n / (lambda_i theta^(2i/d))
from there on (Ding et al. 2024, eq. 3). Angles are computed in float64: in float32 they err by
0.125 rad at 2048k. One module replaces the base model's `rotary_emb`; which factors it uses is
set from outside, for the whole sequence, and never depends on the chunk at hand.

Shapes: R factors (1, or one for each row of the batch), B rows, T positions, P pairs.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, check_same_model


class RescaledRotary(nn.Module):
    """Stands in for a model's `rotary_emb`: cos and sin of rescaled angles.

    Factors that change nothing are handed to the module that it replaces, so they leave the
    model's logits bit-identical.
    """

    def __init__(self, original: nn.Module, rope: Rope) -> None:
        super().__init__()
        self.original = original
        self.rope = rope
        self.factors: tuple[RescaleFactors, ...] = ()

    def use(self, factors: Sequence[RescaleFactors]) -> None:
        """Use one set of factors for every row, or as many as the batch has rows."""
        for each in factors:
            check_same_model(each.rope, self.rope)
        self.factors = tuple(factors)

    @torch.no_grad()
    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (B, T, 2P) in the type of `x`, for positions (B or 1, T)."""
        if all(each.is_identity for each in self.factors):
            return self.original(x, position_ids)
        rows = max(len(self.factors), position_ids.shape[0])
        if len(self.factors) not in (1, x.shape[0]):
            raise ValueError(f"{len(self.factors)} sets of factors for a batch of {x.shape[0]}")
        cos, sin = rescaled_cos_sin(self.factors, position_ids, x.device)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        if any(each.is_identity for each in self.factors):
            plain = [part.expand(rows, -1, -1) for part in self.original(x, position_ids)]
            keep = torch.tensor([each.is_identity for each in self.factors], device=x.device)
            cos, sin = (
                torch.where(keep[:, None, None], old, new)
                for old, new in zip(plain, (cos, sin), strict=True)
            )
        return cos, sin


def rescaled_cos_sin(
    factors: Sequence[RescaleFactors], positions: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin (R or B, T, 2P) in float64, attention factor included."""
    rope = factors[0].rope

    def column(values) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    pairs = torch.arange(rope.pairs, dtype=torch.float64, device=device)
    inverse_P = float(rope.theta) ** (-2 * pairs / rope.rotary_dim)
    scaled_RP = inverse_P / column([each.lambda_ for each in factors])
    positions_BT = positions.to(device, torch.float64)
    n_hat_R1 = column([each.n_hat for each in factors])[:, None]
    leading_BT1 = (positions_BT < n_hat_R1)[..., None]
    inverse_BTP = torch.where(leading_BT1, inverse_P, scaled_RP[:, None, :])
    angles_BTP = positions_BT[..., None] * inverse_BTP
    angles = torch.cat([angles_BTP, angles_BTP], dim=-1)
    attention_R11 = column([each.attention_factor for each in factors])[:, None, None]
    return angles.cos() * attention_R11, angles.sin() * attention_R11


def install(model, rope: Rope) -> RescaledRotary:
    """Put a `RescaledRotary` into a model; until it is told factors, nothing changes.

    Raises UserError if the model has no rotary embedding of this kind, or one whose size or
    frequencies are not those of `rope`.
    """
    body = getattr(model, "model", model)
    original = getattr(body, "rotary_emb", None)
    if isinstance(original, RescaledRotary):
        check_same_model(rope, original.rope)
        return original
    inverse = getattr(original, "inv_freq", None)
    name = type(model).__name__
    if inverse is None:
        raise UserError(
            f"{name} keeps no rotary embedding at model.rotary_emb: only Llama-like models"
            " (Llama, Mistral, Qwen, Phi-3, OLMo, ...) can be rescaled"
        )
    if inverse.numel() != rope.pairs:
        raise UserError(f"{name} turns {inverse.numel()} pairs, its record says {rope.pairs}")
    expected = rope.theta ** (-2 * torch.arange(rope.pairs, dtype=torch.float64) / rope.rotary_dim)
    if not torch.allclose(inverse.double().cpu(), expected, rtol=1e-4):
        raise UserError(f"{name}: its RoPE frequencies are not those of theta {rope.theta:g}")
    rotary = RescaledRotary(original, rope)
    _check_layout(name, rotary, inverse.device)
    body.rotary_emb = rotary
    return rotary


def _check_layout(name: str, rotary: RescaledRotary, device: torch.device) -> None:
    """Raise UserError unless factors of one give what the model's own module gives.

    Some families lay the pairs out in another order (Cohere interleaves them) or scale them.
    """
    ones = RescaleFactors(rotary.rope, 8, "none", (1.0,) * rotary.rope.pairs)
    positions = torch.arange(8, device=device)[None]
    expected = rotary.original(torch.zeros(1, 8, 1, device=device), positions)
    found = rescaled_cos_sin([ones], positions, device)
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape or not torch.allclose(ours.float(), theirs, atol=1e-4):
            raise UserError(f"{name} lays out its rotary embedding in a way that is not supported")


def attention_factor(
    setting: str | float, rope: Rope, window: int, tuned: RescaleFactors | None = None
) -> float:
    """What multiplies cos and sin of searched factors, by the configuration's setting.

    `none`: 1, as the paper's equations; `su`: sqrt(1 + ln s / ln L), as the authors' released
    code and transformers' longrope; `yarn`: 0.1 ln s + 1 (Peng et al. 2023), with s = window / L
    (1 below L) and L the original window. On tuned weights L is the tuned window, and the factor
    multiplies the one that they were tuned with. A number is taken as it is.
    """
    if not isinstance(setting, str):
        return float(setting)
    origin = tuned.window if tuned else rope.original_window
    log_ratio = math.log(max(window / origin, 1))
    own = {
        "none": 1.0,
        "su": math.sqrt(1 + log_ratio / math.log(origin)),
        "yarn": 0.1 * log_ratio + 1,
    }[setting]
    return own * (tuned.attention_factor if tuned else 1.0)
