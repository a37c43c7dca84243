"""
A window-extended model: weights plus a table of factors by length (`extended.json`).

The tier is the smallest window that holds the whole sequence, prompt and new tokens together. It
is chosen once for a sequence, never for a chunk, so a KV cache never mixes two of them.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longrope.errors import UserError
from longrope.factors import (
    MADE,
    RescaleFactors,
    Rope,
    check_same_model,
    read_factors,
    write_factors,
)
from longrope.files import read_json, write_checked
from longrope.windows import window_label

SCHEMA = 1  # of extended.json
KEPT = "longrope_windows"  # of a cache: the tier of each row that it was made with


@dataclass(frozen=True, slots=True)
class Tiers:
    """Factors by the longest sequence that they are for, shortest first."""

    factors: tuple[RescaleFactors, ...]

    def __post_init__(self) -> None:
        if not self.factors:
            raise UserError("an extended model needs factors for at least one window")
        windows = [each.window for each in self.factors]
        if windows != sorted(set(windows)):
            raise UserError(f"tiers must have windows that rise, these are {windows}")
        for each in self.factors[1:]:
            check_same_model(each.rope, self.rope)

    @property
    def rope(self) -> Rope:
        """The embedding that all tiers rescale."""
        return self.factors[0].rope

    @property
    def longest(self) -> RescaleFactors:
        """The factors of the longest window."""
        return self.factors[-1]

    def at(self, window: int) -> RescaleFactors:
        """The factors of one window; UserError lists those that there are."""
        for each in self.factors:
            if each.window == window:
                return each
        known = ", ".join(window_label(each.window) for each in self.factors)
        raise UserError(f"there are no factors for {window_label(window)}, but for {known}")

    def for_length(self, tokens: int) -> RescaleFactors:
        """The factors for sequences of `tokens` tokens; UserError beyond the longest window."""
        for each in self.factors:
            if tokens <= each.window:
                return each
        raise UserError(
            f"a sequence of {tokens:,} tokens is longer than the longest window,"
            f" {window_label(self.longest.window)}: search factors for a longer one"
        )


def make_tiers(factors: list[RescaleFactors]) -> Tiers:
    """Tiers from factors in any order; UserError if two are for the same window."""
    return Tiers(tuple(sorted(factors, key=lambda each: each.window)))


def with_original(tiers: Tiers) -> Tiers:
    """Tiers of weights that were never tuned: within their window they keep the original RoPE."""
    from longrope.baselines import closed_form

    rope = tiers.rope
    if tiers.factors[0].window <= rope.original_window:
        return tiers
    return make_tiers([closed_form("none", rope, rope.original_window), *tiers.factors])


def write_extended(folder: Path, tiers: Tiers, weights: Path) -> None:
    """Write the deliverable: `extended.json`, and the factors of every tier beside it."""
    entries = []
    for each in tiers.factors:
        name = f"{window_label(each.window)}.json"
        write_factors(folder / name, each)
        entries.append({"max_length": each.window, "method": each.method, "factors": name})
    write_checked(
        folder / "extended.json",
        {
            "schema": SCHEMA,
            "model": tiers.rope.model,
            "base_fingerprint": tiers.rope.fingerprint,
            "original_window": tiers.rope.original_window,
            "weights": str(weights),  # a checkpoint, from the working directory
            "tiers": entries,
        },
    )


def read_tiers(path: Path, rope: Rope | None = None) -> Tiers:
    """Read `extended.json`, or one `factors.json` as the only tier."""
    record = read_json(path, MADE)
    if "tiers" not in record:
        return Tiers((read_factors(path, rope),))
    if record.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {record.get('schema')!r}, this version reads {SCHEMA}")
    tiers = []
    for entry in _entries(path, record):
        factors = read_factors(Path(path).parent / entry["factors"], rope)
        if factors.window != entry["max_length"]:
            raise UserError(
                f"{path}: a tier of {entry['max_length']} tokens names factors for {factors.window}"
            )
        tiers.append(factors)
    try:
        return Tiers(tuple(tiers))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _entries(path: Path, record: dict) -> list[dict]:
    entries = record["tiers"]
    for entry in entries if isinstance(entries, list) else [None]:
        name = entry.get("factors") if isinstance(entry, dict) else None
        if not (isinstance(name, str) and isinstance(entry.get("max_length"), int)):
            raise UserError(
                f"{path}: tiers must be a list of objects with max_length (a number) and factors"
                f" (a file), found {entry if isinstance(entries, list) else entries!r}"
            )
    return entries


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

    def __call__(self, input_ids, **options):
        """The model's output, each row with the tier of its own length, by its attention mask.

        A cache keeps the tiers that it was made with, and is refused where a row outgrows them. For
        parts of a longer sequence, `pin` its length and call `model`.
        """
        cache, mask = options.get("past_key_values"), options.get("attention_mask")
        if mask is not None and mask.dim() == 2 and "position_ids" not in options:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)  # of padded rows, as `generate` has them
            options["position_ids"] = positions[:, -input_ids.shape[1] :]
        lengths = _lengths(input_ids, mask, _held(cache))
        rows = self._rows(lengths, cache)
        with self._turning_by(rows):
            out = self.model(input_ids, **options)
        _note(rows, cache, getattr(out, "past_key_values", None))
        return out

    def generate(self, input_ids, max_new_tokens: int, **options):
        """transformers' `generate`, each row at the tier that holds its prompt, as long as its
        attention mask says, and the new tokens together.

        A cache that is handed on (`past_key_values`) must be of an earlier call here, and of the
        same tier, or one that holds as much; UserError otherwise.
        """
        cache = options.get("past_key_values")
        prompts = _lengths(input_ids, options.get("attention_mask"))
        rows = self._rows([length + max_new_tokens for length in prompts], cache)
        config = self.model.config
        said = config.max_position_embeddings
        config.max_position_embeddings = self.tiers.longest.window  # else transformers warns
        try:
            with self._turning_by(rows, self._ways(options)):
                out = self.model.generate(input_ids, max_new_tokens=max_new_tokens, **options)
        finally:  # saved, it would be a model without factors that claims this window
            config.max_position_embeddings = said
        _note(rows, cache, getattr(out, "past_key_values", None))
        return out

    def _rows(self, lengths: list[int], cache) -> list[RescaleFactors]:
        """The factors of each row of a batch; UserError if a cache has others that hold less."""
        rows = [self.tiers.for_length(length) for length in lengths]
        if not _held(cache):
            return rows
        kept = getattr(cache, KEPT, None)
        for number, need in enumerate(rows):
            has = kept[number] if kept and len(kept) == len(rows) else None
            if has is None or has < need.window:
                of = "another model" if has is None else f"a window of {has:,} tokens"
                raise UserError(
                    f"the cache has the factors of {of}, these tokens and those to come need"
                    f" {need.window:,}: generate without past_key_values, from all tokens"
                )
        return [self.tiers.for_length(window) for window in kept]

    @contextlib.contextmanager
    def _turning_by(self, rows: list[RescaleFactors], ways: int = 1) -> Iterator[None]:
        """Turn each row of a batch by its own factors, `ways` rows of the model for each; then all
        by those of the longest."""
        longest = max(rows, key=lambda each: each.window)
        same = all(each is longest for each in rows)
        self._rotary.use([longest] if same else [each for each in rows for _ in range(ways)])
        try:
            yield
        finally:
            self._rotary.use([longest])

    def _ways(self, options: dict) -> int:
        """How many rows `generate` makes of each prompt: beams, or several answers."""
        places = (options.get("generation_config"), getattr(self.model, "generation_config", None))
        found = [1]
        for name in ("num_beams", "num_return_sequences"):
            said = [options.get(name), *(getattr(place, name, None) for place in places)]
            found.append(next((value for value in said if value is not None), 1))
        return max(found)


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
