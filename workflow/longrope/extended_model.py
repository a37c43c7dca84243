"""
A window-extended model in memory, which runs any sequence with the factors of its length.

A tier is chosen once for a sequence, never for a chunk, so a KV cache never mixes two of them. What
is called here takes what transformers' model takes, on whichever device it is given.
"""

import contextlib
from collections.abc import Iterator

from longrope.errors import UserError
from longrope.extended import Tiers
from longrope.factors import RescaleFactors

KEPT = "longrope_windows"  # of a cache: the tier of each row that it was made with
UNSAID = 20  # new tokens that transformers generates where nothing says how many


class ExtendedModel:
    """A causal language model that runs any sequence with the factors of its length.

    `model` is transformers' own: called by itself, it turns by the factors of the longest window,
    or of the length that was pinned, whatever it is given.
    """

    def __init__(self, model, tiers: Tiers) -> None:
        from longrope.rope import install

        self.model = model
        self.tiers = tiers
        self._rotary = install(model, tiers.rope)
        self._rotary.use([tiers.longest])

    def pin(self, tokens: int) -> RescaleFactors:
        """Use the tier for sequences of `tokens` tokens (prompt and new ones) from now on."""
        factors = self.tiers.for_length(tokens)
        self._rotary.use([factors])
        return factors

    def __call__(self, input_ids=None, **options):
        """The model's output, each row with the tier of its own length, by its attention mask.

        A cache keeps the tiers that it was made with, and is refused where a row outgrows them. For
        parts of a longer sequence, `pin` its length and call `model`. Tensors of another device are
        moved to the model's.
        """
        cache, mask = options.get("past_key_values"), options.get("attention_mask")
        given = _given(input_ids, options.get("inputs_embeds"))
        if mask is not None and mask.dim() == 2 and "position_ids" not in options:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)  # of padded rows, as `generate` has them
            options["position_ids"] = positions[:, -given.shape[1] :]
        lengths = _lengths(given, mask, _held(cache))
        rows = self._rows(lengths, cache)
        with self._turning_by(rows):
            out = self.model(**self._placed({"input_ids": input_ids, **options}))
        _note(rows, cache, getattr(out, "past_key_values", None))
        return out

    def generate(self, input_ids=None, max_new_tokens: int | None = None, **options):
        """transformers' `generate`, each row at the tier that holds its prompt, as long as its
        attention mask says, and the new tokens together.

        A prompt may be called `inputs` as well; whatever else transformers takes is handed on, with
        tensors moved to the model's device. A cache (`past_key_values`) must be of an earlier call
        here, and of the same tier, or one that holds as much; UserError otherwise.
        """
        options |= {"input_ids": input_ids, "max_new_tokens": max_new_tokens}
        cache, prompts = options.get("past_key_values"), ("input_ids", "inputs", "inputs_embeds")
        given = _given(*(options.get(name) for name in prompts))
        new = self._new_tokens(options, given.shape[1])
        rows = self._rows(
            [length + new for length in _lengths(given, options.get("attention_mask"))], cache
        )
        said, ways = self.config.max_position_embeddings, self._ways(options)
        self.config.max_position_embeddings = self.tiers.longest.window  # else transformers warns
        try:
            with self._turning_by(rows, ways):
                out = self.model.generate(**self._placed(options))
        finally:  # saved, it would be a model without factors that claims this window
            self.config.max_position_embeddings = said
        every = [each for each in rows for _ in range(ways)]
        _note(every, cache, getattr(out, "past_key_values", None))
        return out

    @property
    def config(self):
        """transformers' configuration of the model."""
        return self.model.config

    @property
    def device(self):
        """Where the model is, and its tokens go."""
        return self.model.device

    @property
    def dtype(self):
        """The type of its weights."""
        return self.model.dtype

    def to(self, *arguments, **options) -> "ExtendedModel":
        """The same elsewhere, or in another type; in place."""
        self.model.to(*arguments, **options)
        return self

    def eval(self) -> "ExtendedModel":
        """The same in evaluation mode, in which `load` gives it."""
        self.model.eval()
        return self

    def _placed(self, options: dict) -> dict:
        """What was given, tensors on the model's device."""
        import torch

        return {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in options.items()
            if value is not None
        }

    def _rows(self, lengths: list[int], cache) -> list[RescaleFactors]:
        """The factors of each row of a batch; UserError if a cache has others that hold less."""
        rows = [self.tiers.for_length(length) for length in lengths]
        if not _held(cache):
            return rows
        kept = getattr(cache, KEPT, None)
        if kept and len(kept) != len(rows):
            raise UserError(
                f"the cache is of {len(kept)} sequences, the tokens are of {len(rows)}: give a row"
                " for each, or generate without past_key_values"
            )
        for number, need in enumerate(rows):
            has = kept[number] if kept else None
            if has is None or has < need.window:
                of = "another model" if has is None else f"a window of {has:,} tokens"
                raise UserError(
                    f"the cache has the factors of {of}, these tokens and those to come need"
                    f" {need.window:,}: generate without past_key_values, from all tokens"
                )
        return [self.tiers.for_length(window) for window in kept]

    @contextlib.contextmanager
    def _turning_by(self, rows: list[RescaleFactors], ways: int = 1) -> Iterator[None]:
        """Turn each row of a batch by its own factors, `ways` rows of the model for each; then as
        before."""
        before = self._rotary.factors
        same = all(each is rows[0] for each in rows)
        self._rotary.use(rows[:1] if same else [each for each in rows for _ in range(ways)])
        try:
            yield
        finally:
            self._rotary.use(before)

    def _ways(self, options: dict) -> int:
        """How many rows `generate` makes of each prompt: beams, or several answers."""
        return max(
            next(self._said(name, options), 1) for name in ("num_beams", "num_return_sequences")
        )

    def _new_tokens(self, options: dict, prompt: int) -> int:
        """How many tokens `generate` may add to a batch of prompts, as transformers takes it."""
        if (new := next(self._said("max_new_tokens", options), None)) is not None:
            return new
        longest = next(self._said("max_length", options), None)
        return UNSAID if longest is None else longest - prompt

    def _said(self, name: str, options: dict) -> Iterator[int]:
        """A setting of `generate` wherever it stands, the one that counts first."""
        places = (options.get("generation_config"), getattr(self.model, "generation_config", None))
        said = [options.get(name), *(getattr(place, name, None) for place in places)]
        return (value for value in said if value is not None)


def _given(*prompts):
    """The one of several ways to say the tokens of a call that is used; UserError otherwise."""
    given = [each for each in prompts if each is not None]
    if len(given) != 1:
        raise UserError(
            f"{len(given)} prompts: give one of input_ids and inputs_embeds, whose length decides"
            " on the factors"
        )
    if not hasattr(given[0], "shape"):
        raise UserError(
            f"a prompt that is a {type(given[0]).__name__}: give a tensor, with a row of tokens for"
            " each text"
        )
    return given[0]


def _held(cache) -> int:
    """How many tokens are in a cache."""
    return 0 if cache is None else int(cache.get_seq_length())


def _lengths(input_ids, mask=None, before: int = 0) -> list[int]:
    """Tokens of each row, by its mask of zeros and ones where there is one."""
    if mask is not None and mask.dim() == 2:
        return [int(length) for length in mask.sum(dim=-1)]
    return [before + input_ids.shape[1]] * input_ids.shape[0]


def _note(rows: list[RescaleFactors], *caches) -> None:
    """Let caches say which windows their rows were made for."""
    for each in caches:
        if each is not None:
            setattr(each, KEPT, [row.window for row in rows])
