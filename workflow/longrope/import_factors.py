"""
Factors that others found: in the tables of LongRoPE's authors, and in checkpoints.

Every reader returns the same `RescaleFactors` that our own searches give, or raises one UserError
that names the file. Numbers are kept as they are written and nothing is guessed: a table tells
neither n_hat nor attention factor, so the caller does. Weights are never opened.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from longrope.errors import UserError, unknown_name
from longrope.factors import RescaleFactors, Rope, su_factor
from longrope.files import read_json, sha256_of

LONGROPE_TYPES = ("longrope", "su")  # the first Phi-3 checkpoints say "su"
EXPORT = "longrope_export.json"  # of exports of this project: what a config does not tell
UNKNOWN = "unknown"  # weights


def import_csv(
    path: Path,
    rope: Rope,
    window: int,
    *,
    method: str = "published",
    n_hat: int = 0,
    attention_factor: float = 1.0,
) -> RescaleFactors:
    """Read a table in the form that LongRoPE's authors release, made for `rope` and `window`.

    That is one row per layer, all equal, of one lambda per pair, highest frequency first; or a
    single column of them (LongRoPE2). No header, no index. Some released files separate by
    commas and some by spaces; both are read. Rows that differ are refused: all layers share one
    embedding here.
    """
    path = Path(path)
    with _naming(path):
        rows = _read_rows(path)
        if len(rows) > 1 and all(len(row) == 1 for row in rows):
            rows = [[row[0] for row in rows]]
        for number, row in enumerate(rows, start=1):
            if len(row) != rope.pairs:
                raise UserError(
                    f"row {number} holds {len(row)} values, the model {rope.model!r} needs"
                    f" {rope.pairs} (rotary_dim / 2)"
                )
            if row != rows[0]:
                raise UserError(
                    f"row {number} differs from row 1: factors that differ between layers cannot"
                    " be used, every row must be the same"
                )
        return RescaleFactors(
            rope=rope,
            window=window,
            method=method,
            lambda_=tuple(rows[0]),
            n_hat=n_hat,
            attention_factor=attention_factor,
            provenance={"imported_from": path.name, "sha256": sha256_of(path)},
        )


def import_checkpoint(
    folder: Path, *, model: str | None = None, which: str = "long", fingerprint: str | None = None
) -> RescaleFactors:
    """Read the `which` table, long or short, from the config.json of a Hugging Face checkpoint.

    Both schemas are read, `rope_parameters` and the older `rope_scaling`, and what is stated twice
    is taken from where transformers takes it. The long table is for the longest window that the
    config states, the short one for the original window; one table for every length, as exports of
    this project have, is for the window that both are. What a config does not tell is taken from
    the note beside it that such an export has: the model, by default the folder's name, the
    original window, and `fingerprint`, that of the pre-trained weights.
    """
    if which not in ("long", "short"):
        raise unknown_name("table", which, ("long", "short"))
    path = Path(folder) / "config.json"
    config = read_json(path)
    with _naming(path):
        block = config.get("rope_scaling") or config.get("rope_parameters") or {}
        block = block if isinstance(block, dict) else {"type": block}
        kind = block.get("rope_type", block.get("type"))
        if kind not in LONGROPE_TYPES:
            raise UserError(
                f"no longrope factors: the rope_type in rope_parameters or rope_scaling is"
                f" {kind!r}, expected {' or '.join(LONGROPE_TYPES)}"
            )
        note = _note_of(path.parent)
        original = _number("original_max_position_embeddings", config, block)
        rope = Rope(
            model=model or note.get("model") or Path(folder).resolve().name,
            theta=_number("rope_theta", block, config),
            rotary_dim=_rotary_dim(block, config),
            original_window=_number("original_window", note, default=original),
            fingerprint=fingerprint or note.get("base_fingerprint") or UNKNOWN,
        )
        table = block.get(f"{which}_factor")
        if not isinstance(table, list) or len(table) != rope.pairs:
            found = f"has {len(table)} values" if isinstance(table, list) else f"is {table!r}"
            raise UserError(
                f"{which}_factor {found}: {rope.rotary_dim} rotated dimensions need a list of"
                f" {rope.pairs}"
            )
        return RescaleFactors(
            rope=rope,
            window=_long_window(block, config, original) if which == "long" else original,
            method=f"checkpoint-{which}",
            lambda_=tuple(table),
            attention_factor=_attention_factor(block, config, original, which),
            provenance={"imported_from": "config.json", "sha256": sha256_of(path), "table": which},
        )


def _read_rows(path: Path) -> list[list[float]]:
    """The numbers of every line that is not blank."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"not a readable text file ({error})") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        cells = re.split(r"\s*,\s*|\s+", line.strip()) if line.strip() else []
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError as error:
            raise UserError(f"line {number}: {error}; expected lambda values only") from None
    rows = [row for row in rows if row]
    if not rows:
        raise UserError("holds no values, expected rows of one lambda per pair")
    return rows


def _number(name: str, *places: dict, default: float | None = None) -> float:
    """The number called `name` in the first of the `places` that has it."""
    for place in places:
        value = place.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise UserError(f"{name} = {value!r}: must be a number above 0")
            return value
    if default is None:
        raise UserError(f"{name} is missing: the factors mean nothing without it, add it")
    return default


def _rotary_dim(block: dict, config: dict) -> int:
    """How many dimensions of a head turn."""
    if "qk_rope_head_dim" in config:  # multi-head latent attention keeps them apart
        head = _number("qk_rope_head_dim", config)
    elif config.get("head_dim") is not None:
        head = _number("head_dim", config)
    else:
        head = _number("hidden_size", config) // _number("num_attention_heads", config)
    return int(head * _number("partial_rotary_factor", block, config, default=1))


def _note_of(folder: Path) -> dict:
    """What an export of this project says of itself beside its config.json; nothing of others."""
    note = read_json(folder / EXPORT) if (folder / EXPORT).exists() else {}
    if note.get("attention_factor_in_weights"):
        raise UserError(
            "the attention factor is no longer in it, but multiplied into the weights: take"
            " the factors.json beside it, which has both"
        )
    return note


def _ratio(block: dict, config: dict, original: int) -> float:
    """The extension ratio s as transformers has it: stated, else from the two windows."""
    if block.get("factor") is not None:
        return _number("factor", block)
    return _number("max_position_embeddings", config) / original


def _long_window(block: dict, config: dict, original: int) -> int:
    """The window of the long table: max_position_embeddings, or from factor if that was kept."""
    longest = _number("max_position_embeddings", config, default=original)
    if longest <= original:
        longest = round(_ratio(block, config, original) * original)
    one_table = block.get("short_factor") == block.get("long_factor")
    if longest < original or (longest == original and not one_table):
        raise UserError(
            f"max_position_embeddings = {longest} is not above the original window"
            f" {original}, and no factor tells what window long_factor is for: set one"
        )
    return longest


def _attention_factor(block: dict, config: dict, original: int, which: str) -> float:
    """What cos and sin are multiplied by: stated for both tables, or for one (Phi-3.5-MoE).

    Else the default of transformers, sqrt(1 + ln s / ln L), which it applies to both tables.
    """
    for name in ("attention_factor", f"{which}_mscale"):
        if block.get(name) is not None:
            return _number(name, block)
    return su_factor(_ratio(block, config, original), original)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
