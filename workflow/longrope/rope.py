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
from longrope.factors import RescaleFactors, Rope, check_same_model, su_factor
from longrope.models.architectures import BY_LENGTH, PLAIN, body_of, rope_type_of
from longrope.parallel.place import here

ANGLES = 1 << 13  # positions whose angles are held in float64 at a time


class RescaledRotary(nn.Module):
    """Stands in for a model's `rotary_emb`: cos and sin of rescaled angles.

    Factors that change nothing are handed to the module that it replaces, so they leave the
    model's logits bit-identical. A model whose config.json rescales its RoPE takes no others.
    """

    def __init__(self, original: nn.Module, rope: Rope, type_: str = PLAIN) -> None:
        super().__init__()
        self.original = original
        self.rope = rope
        self.type = type_  # rope_type of the model's config.json
        self.rounds = True  # whether cos and sin get the type of what they turn
        self.factors: tuple[RescaleFactors, ...] = ()
        self.positions_BT: torch.Tensor | None = None

    def use(
        self, factors: Sequence[RescaleFactors], positions_BT: torch.Tensor | None = None
    ) -> None:
        """Use one set of factors for every row, or as many as the batch has rows.

        `positions_BT` replace those that the model counts. The model itself must not be told of
        positions that jump: transformers takes what is between jumps for sequences of their own,
        and builds a mask of T x T so that none sees another.
        """
        for each in factors:
            check_same_model(each.rope, self.rope)
            if self.type != PLAIN and not each.is_identity:
                raise UserError(
                    f"model {self.rope.model!r} comes with a RoPE of its own (rope_type"
                    f" {self.type!r}): it runs with the method none only, not {each.method}"
                )
        if self.type in BY_LENGTH:  # dynamic remembers the longest sequence: begin anew
            device = self.original.inv_freq.device
            self.original = type(self.original)(config=self.original.config).to(device)
        self.factors, self.positions_BT = tuple(factors), positions_BT

    @torch.no_grad()
    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (B, T, 2P) for positions (B or 1, T), in the type that the model expects."""
        if self.positions_BT is not None:
            # What comes are places in the sequence: all, or a slice of them, filled up at the end.
            last = self.positions_BT.shape[1] - 1
            position_ids = self.positions_BT.to(x.device)[:, position_ids[0].clamp(max=last)]
        if all(each.is_identity for each in self.factors):
            return self.original(x, position_ids)
        rows = max(len(self.factors), position_ids.shape[0])
        if len(self.factors) not in (1, x.shape[0]):
            raise ValueError(f"{len(self.factors)} sets of factors for a batch of {x.shape[0]}")
        dtype = x.dtype if self.rounds else torch.float32
        length, pairs = position_ids.shape[1], self.rope.pairs
        cos, sin = (
            torch.empty(rows, length, 2 * pairs, dtype=dtype, device=x.device) for _ in range(2)
        )
        for first in range(0, length, ANGLES):  # float64 of all positions would be 1 GB at 2048k
            part = slice(first, first + ANGLES)
            cos[:, part], sin[:, part] = rescaled_cos_sin(
                self.factors, position_ids[:, part], x.device
            )
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
    attention_R11 = column([each.attention_factor for each in factors])[:, None, None]
    cos_BTP, sin_BTP = angles_BTP.cos() * attention_R11, angles_BTP.sin() * attention_R11
    return torch.cat([cos_BTP, cos_BTP], dim=-1), torch.cat([sin_BTP, sin_BTP], dim=-1)


def install(model, rope: Rope, *, one_call: bool = False) -> RescaledRotary:
    """Put a `RescaledRotary` into a model; until it is told factors, nothing changes.

    `one_call`: every sequence will be one forward call, without others of another length; only
    then may the model come with frequencies that transformers chooses call by call. Raises
    UserError if it does otherwise, if the model has no rotary embedding of this kind, or one whose
    size or frequencies are not those of `rope`.
    """
    body, name = body_of(model), type(model).__name__
    original = getattr(body, "rotary_emb", None)
    if isinstance(original, RescaledRotary):
        check_same_model(rope, original.rope)
        return original
    inverse = getattr(original, "inv_freq", None)
    if inverse is None:
        raise UserError(
            f"{name} keeps no rotary embedding at rotary_emb of its body: only models built like"
            " Llama, Mistral, Qwen, Phi-3, Gemma, OLMo or GPT-NeoX can be rescaled"
        )
    if inverse.numel() != rope.pairs:
        raise UserError(f"{name} turns {inverse.numel()} pairs, its record says {rope.pairs}")
    rotary = RescaledRotary(original, rope, rope_type_of(model.config.to_dict()))
    if rotary.type == PLAIN:
        _check_layout(name, rotary)
    elif rotary.type in BY_LENGTH and (not one_call or here().per_sequence > 1):
        raise UserError(
            f"model {rope.model!r} comes with a RoPE that depends on the length of every forward"
            f" call (rope_type {rotary.type!r}): only its perplexity can be measured, and only with"
            " one process a sequence"
        )
    body.rotary_emb = rotary
    return rotary


def _check_layout(name: str, rotary: RescaledRotary) -> None:
    """Raise UserError unless factors of one give what the model's own module gives.

    Some families lay the pairs out in another order (Cohere interleaves them) or scale them; OLMo
    turns in float32 whatever the model's type, which is noted.
    """
    rope, inverse = rotary.rope, rotary.original.inv_freq
    plain = rope.theta ** (-2 * torch.arange(rope.pairs, dtype=torch.float64) / rope.rotary_dim)
    if not torch.allclose(inverse.double().cpu(), plain, rtol=1e-4):
        raise UserError(f"{name}: its RoPE frequencies are not those of theta {rope.theta:g}")
    ones = RescaleFactors(rope, 8, "none", (1.0,) * rope.pairs)
    positions = torch.arange(8, device=inverse.device)[None]
    values = torch.zeros(1, 8, 1, device=inverse.device)
    expected = rotary.original(values, positions)
    rotary.rounds = rotary.original(values.bfloat16(), positions)[0].dtype == torch.bfloat16
    found = rescaled_cos_sin([ones], positions, inverse.device)
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
    own = {
        "none": 1.0,
        "su": su_factor(window / origin, origin),
        "yarn": 0.1 * math.log(max(window / origin, 1)) + 1,
    }[setting]
    return own * (tuned.attention_factor if tuned else 1.0)
