"""
A model with the window-extended RoPE of LongRoPE (arXiv 2402.13753): factors by length.

Pair i of position n turns by n / theta^(2i/d) where n < n_hat, and by n / (lambda_i theta^(2i/d))
from there on. lambda, n_hat and a factor on cos and sin belong to a tier, the smallest window that
holds the whole sequence. It is chosen once for a sequence, by its row, and goes with its cache,
which never mixes two. A tier that changes nothing turns as transformers does without this file, to
the last bit: with angles in float32. Those of all others are float64.

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    model.generate(**inputs, max_new_tokens=200)  # the tier of prompt and new tokens together
    model.pin(5000)  # before your own loop over parts of a sequence: its whole length
    model.pin(None)  # each call by its own length again

Without `trust_remote_code` the same folder loads with one table for every length. This file needs
torch and transformers (4.57 and 5 are tested) and nothing else.
"""

import torch
from torch import nn
from transformers import LlamaForCausalLM as Plain  # the family's own class

ANGLES = 8192  # positions whose angles are held in float64 at a time


class TieredRotary(nn.Module):
    """cos and sin by the tier of each row; stands in for the model's `rotary_emb`.

    It holds plain numbers, no buffers: loading must not touch them, nor a type lower them.
    """

    def __init__(self, config, rounds: bool) -> None:
        super().__init__()
        said = config.longrope_tiers
        self.theta, self.rotary_dim = float(said["rope_theta"]), int(said["rotary_dim"])
        self.tiers = said["tiers"]  # shortest first: max_length, lambda, n_hat, attention_factor
        self.rounds = rounds  # whether cos and sin get the type of what they turn
        self.rows: list[dict] = []  # one for every row of the batch, or one for all

    def tier(self, length: int) -> dict:
        """The tier for a sequence of so many tokens."""
        for tier in self.tiers:
            if length <= tier["max_length"]:
                return tier
        raise ValueError(
            f"a sequence of {length} tokens is longer than the longest window of this model,"
            f" {self.tiers[-1]['max_length']}"
        )

    @torch.no_grad()
    def forward(self, x, position_ids, *_, **__):
        batch, length = x.shape[0], position_ids.shape[1]
        rows = self.rows
        if len(rows) not in (1, batch):  # beams, or several answers to a prompt
            rows = [row for row in rows for _ in range(batch // len(rows))]
        if all(row is rows[0] for row in rows):
            rows = rows[:1]
        size = max(len(rows), position_ids.shape[0])
        dtype = x.dtype if self.rounds else torch.float32
        cos, sin = (
            torch.empty(size, length, self.rotary_dim, dtype=dtype, device=x.device)
            for _ in range(2)
        )
        untouched = [_changes_nothing(row) for row in rows]
        keep = torch.tensor(untouched, device=x.device)[:, None, None]
        for first in range(0, length, ANGLES):
            part = slice(first, first + ANGLES)
            positions = position_ids[:, part].to(x.device)
            angles, scale = self._angles(rows, positions)
            turned = [angles.cos() * scale, angles.sin() * scale]
            if any(untouched):
                plain = self._plain_angles(positions)
                pairs = zip((plain.cos(), plain.sin()), turned, strict=True)
                turned = [torch.where(keep, before, after) for before, after in pairs]
            for table, values in zip((cos, sin), turned, strict=True):
                table[:, part] = torch.cat([values] * 2, dim=-1)
        return cos, sin

    def _plain_angles(self, positions):
        """As transformers computes them, in float32 (rows, positions, pairs)."""
        pairs = torch.arange(0, self.rotary_dim, 2, device=positions.device)
        inverse = 1.0 / (self.theta ** (pairs.to(torch.float32) / self.rotary_dim))
        return positions[..., None].to(torch.float32) * inverse

    def _angles(self, rows, positions):
        """Angles in float64 (rows, positions, pairs): in float32 they err at long windows."""

        def column(values):
            return torch.tensor(values, dtype=torch.float64, device=positions.device)

        pairs = torch.arange(self.rotary_dim // 2, dtype=torch.float64, device=positions.device)
        plain = self.theta ** (-2 * pairs / self.rotary_dim)
        scaled = plain / column([row["lambda"] for row in rows])
        positions = positions.to(torch.float64)
        leading = positions < column([row["n_hat"] for row in rows])[:, None]
        inverse = torch.where(leading[..., None], plain, scaled[:, None, :])
        scale = column([row["attention_factor"] for row in rows])[:, None, None]
        return positions[..., None] * inverse, scale


class LongRopeForCausalLM(Plain):
    """The family's causal language model, whose factors follow the length of the sequence."""

    def __init__(self, config):
        super().__init__(config)
        body = self.base_model
        probe = torch.zeros(1, 1, 1, dtype=torch.bfloat16, device="cpu")
        with torch.device("cpu"):  # loading may build the rest without memory
            plain = type(body.rotary_emb)(config=config)
            rounds = plain(probe, torch.zeros(1, 1, dtype=torch.long))[0].dtype == probe.dtype
        body.rotary_emb = TieredRotary(config, rounds)
        body.register_forward_pre_hook(self._choose, with_kwargs=True)
        body.register_forward_hook(self._keep)
        self._pinned = None

    def pin(self, tokens) -> None:
        """Use the tiers of these lengths (one, or one a row) until told otherwise; None: each
        call's own."""
        self._pinned = None
        if tokens is not None:
            lengths = tokens if isinstance(tokens, list | tuple) else [tokens]
            rotary = self.base_model.rotary_emb
            rotary.rows = [rotary.tier(int(length)) for length in lengths]
            self._pinned = rotary.rows

    def _choose(self, body, args, kwargs) -> None:
        """Before every call: the tiers of its rows, unless they are pinned or in a cache."""
        rotary = body.rotary_emb
        ids = args[0] if args else kwargs.get("input_ids")
        whole = ids if ids is not None else kwargs["inputs_embeds"]
        cache = kwargs.get("past_key_values")
        before = 0 if cache is None else int(cache.get_seq_length())
        lengths = _lengths(kwargs.get("attention_mask"), whole, before)
        rows = self._pinned or [rotary.tier(length) for length in lengths]
        if before:
            rows = self._of_cache(cache, rows, len(lengths))
        rotary.rows = rows
        if cache is not None:
            cache.longrope_tiers = rows
        shortest = min(tier["max_length"] for tier in rotary.rows)
        if max(lengths) > shortest and any(
            length > tier["max_length"]
            for length, tier in zip(lengths, _as_many(rotary.rows, len(lengths)), strict=True)
        ):
            raise ValueError(
                f"a sequence has grown to {max(lengths)} tokens, beyond the window {shortest} whose"
                " factors are in its cache: begin it with model.pin(its whole length), or use"
                " generate"
            )

    def _of_cache(self, cache, asked: list[dict], count: int) -> list[dict]:
        """The tiers that a cache was made with, which go on; ValueError if others are pinned."""
        rows = getattr(cache, "longrope_tiers", None)
        if rows is None:
            if self._pinned is None:
                raise ValueError(
                    "a cache that this model did not make: say the whole length with model.pin"
                )
            return asked
        if self._pinned is not None and _as_many(rows, count) != _as_many(asked, count):
            raise ValueError(
                "the cache was made with the factors of other windows"
                f" ({_windows(rows)}) than those that are pinned ({_windows(asked)}): begin again"
                " without it, after model.pin(the whole length)"
            )
        return rows

    def _keep(self, body, args, output) -> None:
        """After every call: its tiers go with the cache that it made."""
        if (cache := getattr(output, "past_key_values", None)) is not None:
            cache.longrope_tiers = body.rotary_emb.rows

    @torch.no_grad()
    def generate(self, inputs=None, generation_config=None, **kwargs):
        """transformers' `generate`, each row with the tier of its prompt and new tokens."""
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        prompt = prompt if prompt is not None else kwargs.get("inputs_embeds")
        if prompt is None or self._pinned is not None:
            return super().generate(inputs, generation_config, **kwargs)
        lengths = _lengths(kwargs.get("attention_mask"), prompt, 0)
        new = self._new_tokens(prompt.shape[1], generation_config, kwargs)
        self.pin([length + new for length in lengths])
        cache = kwargs.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()):
            self._pin_as(cache, [length + new for length in lengths])
        try:
            return super().generate(inputs, generation_config, **kwargs)
        finally:
            self.pin(None)

    def _pin_as(self, cache, lengths: list[int]) -> None:
        """Go on with the tiers of a cache; ValueError if they do not hold what is to come."""
        rows = getattr(cache, "longrope_tiers", self._pinned)
        for length, row in zip(lengths, _as_many(rows, len(lengths)), strict=True):
            if length > row["max_length"]:
                self.pin(None)
                raise ValueError(
                    f"{length} tokens with those to come, but the cache has the factors of a window"
                    f" of {row['max_length']}: generate without past_key_values, from all tokens"
                )
        self._pinned = self.base_model.rotary_emb.rows = rows

    def _new_tokens(self, prompt: int, generation_config, kwargs) -> int:
        """How many tokens may follow a prompt, as `generate` reads its options."""
        own = (generation_config, self.generation_config)
        for name, before in (("max_new_tokens", 0), ("max_length", prompt)):
            for place in (kwargs.get(name), *(getattr(each, name, None) for each in own)):
                if place is not None and int(place) > before:
                    return int(place) - before
        return 20  # what transformers generates when nothing is said


def _lengths(mask, tokens, before: int) -> list[int]:
    """Tokens of each row so far, by its mask of zeros and ones where it has one."""
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        return mask.sum(dim=-1).tolist()
    return [before + tokens.shape[1]] * tokens.shape[0]


def _changes_nothing(row: dict) -> bool:
    return row["attention_factor"] == 1 and all(value == 1 for value in row["lambda"])


def _windows(rows: list[dict]) -> str:
    return ", ".join(str(row["max_length"]) for row in rows)


def _as_many(rows: list, count: int) -> list:
    return [row for row in rows for _ in range(max(count // len(rows), 1))]
