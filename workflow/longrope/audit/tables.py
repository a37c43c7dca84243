"""
The factor tables of longrope: lengths, values, and the attention scaling beside them.
"""

import math
import operator
from collections.abc import Iterator

from longrope.audit.checkpoint import CLOSE, CONFIG, LONGROPE, Block, Checkpoint
from longrope.audit.finding import (
    LLAMA_CPP,
    MLX,
    SGLANG,
    T4,
    T5,
    VLLM,
    Finding,
    among,
    everywhere,
)
from longrope.audit.values import is_number
from longrope.factors import su_factor

BELOW = 0.99  # some published tables begin a little below 1
OWN_SCALING = ("phimoe", "phi3small")  # model_types whose code reads short_mscale and long_mscale


def check_tables(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    """What is wrong with the tables of a longrope block."""
    if block.type not in LONGROPE:
        for key in ("short_factor", "long_factor"):
            if block.rescales and key in block.values:
                yield Finding(
                    "table-not-read", "error", CONFIG, f"{block.key}.{key}",
                    f"{key} is read with rope_type longrope only, this is {block.type!r}.",
                    everywhere("ignores the table, silently"),
                    '"rope_type": "longrope", or no tables',
                )  # fmt: skip
        return
    for key in ("short_factor", "long_factor"):
        yield from _table(checkpoint, block, key)
    yield from _together(checkpoint, block)
    yield from _attention(checkpoint, block)


def _together(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    """Whether the long table does more than the short one."""
    tables = [block.values.get(key) for key in ("short_factor", "long_factor")]
    if not all(isinstance(each, list) and each and all(map(is_number, each)) for each in tables):
        return
    short, long = tables
    if min(long) < BELOW:
        return  # said already
    if len(short) == len(long) and 2 * sum(map(operator.gt, short, long)) > len(long):
        yield Finding(
            "tables-swapped", "error", CONFIG, f"{block.key}.short_factor, {block.key}.long_factor",
            f"most short factors (up to {max(short):g}) are above the long ones (up to"
            f" {max(long):g}).",
            everywhere("stretches short texts, and long ones less or not at all, silently"),
            "the larger factors as long_factor",
        )  # fmt: skip
    elif (checkpoint.window or 0) > (checkpoint.original(block) or 0) and {*long} == {1}:
        yield Finding(
            "factor-one", "error", CONFIG, f"{block.key}.long_factor",
            "every long factor is 1.",
            everywhere("does not scale at all, silently"),
            "the factors that the weights were tuned with",
        )  # fmt: skip


def _table(checkpoint: Checkpoint, block: Block, key: str) -> Iterator[Finding]:
    values, place = block.values.get(key), f"{block.key}.{key}"
    if not isinstance(values, list) or not all(map(is_number, values)):
        found = "is missing" if values is None else "is no list of numbers"
        yield Finding(
            "table-missing", "error", CONFIG, place, f"{key} {found}.",
            among("refuses to load", T4, T5, VLLM, SGLANG)
            | {LLAMA_CPP: "cannot be converted", MLX: "uses 1 or long_factor for all lengths"},
            f"{checkpoint.pairs} numbers, the fastest pair first",
        )  # fmt: skip
        return
    if checkpoint.pairs and len(values) != checkpoint.pairs:
        yield Finding(
            "table-length", "error", CONFIG, place,
            f"{key} has {len(values)} numbers; {checkpoint.pairs} pairs turn (head size"
            f" {checkpoint.head_size}, and the share of it that turns).",
            among("refuses (Phi-3), or warns and fails at the first sequence that uses it", T4, T5)
            | among("fails while loading", VLLM, SGLANG)
            | {LLAMA_CPP: "cannot be converted, or fails while loading"},
            f"{checkpoint.pairs} numbers: head size x partial_rotary_factor / 2",
        )  # fmt: skip
    if any(not (math.isfinite(value) and value > 0) for value in values):
        yield Finding(
            "table-values", "error", CONFIG, place, f"{key} has values that are not above 0.",
            everywhere("infinite or backward angles, silently"), "numbers of 1 and more",
        )  # fmt: skip
        return
    below = [value for value in values if value < BELOW]
    if below:
        most = 2 * len(below) > len(values)
        yield Finding(
            "table-below-one", "error" if most else "warning", CONFIG, place,
            f"{len(below)} of {len(values)} factors are below 1 (least {min(below):g})"
            + (": these look like reciprocals." if most else "."),
            everywhere("turns those pairs faster than in pre-training, silently"),
            "what an angle is divided by: 1 = untouched, above 1 = slower",
        )  # fmt: skip
    drops = [pair for pair in range(1, len(values)) if values[pair] < values[pair - 1] - 1e-9]
    if drops:
        falling = values[-1] < values[0] - 1e-9
        yield Finding(
            "table-reversed" if falling else "table-decreases",
            "error" if falling else "note", CONFIG, place,
            f"{key} decreases at {len(drops)} pairs, the first time at pair {drops[0]}"
            + (
                f", from {values[0]:g} to {values[-1]:g}: it seems to begin with the slowest pair."
                if falling
                else "; some published tables do."
            ),
            everywhere("stretches the fast pairs most, silently" if falling else "works"),
            "the fastest pair first: factors that grow towards the slow pairs",
        )  # fmt: skip


def _attention(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    """Engines apply sqrt(1 + ln s / ln L) by themselves, 1 where the windows are the same.
    transformers takes `attention_factor` for it, and knows no mscale; vLLM and SGLang take
    short_mscale and long_mscale; MLX is given none of the three."""
    original, window = checkpoint.original(block), checkpoint.window
    if checkpoint.kind in OWN_SCALING or not (original and window and original > 1):
        return
    if window < original or (window == original and not block.one_table):
        return  # said of the windows
    own = su_factor(window / original, original)
    stated, factor = block.number("attention_factor"), block.number("factor")
    applied = stated if stated is not None else su_factor(factor or window / original, original)
    scales = {key: block.number(key) for key in ("short_mscale", "long_mscale")}
    given = {key: value for key, value in scales.items() if value is not None}
    in_mlx = {MLX: f"applies {own:.4f}, silently: it reads no key of it"}
    if len(given) == 1:
        missing = next(key for key in scales if key not in given)
        yield Finding(
            "mscale-incomplete", "error", CONFIG, f"{block.key}.{missing}",
            f"{', '.join(given)} is stated and {missing} is not.",
            among(f"applies {own:.4f} with the other table, silently", VLLM, SGLANG)
            | (in_mlx if abs(applied - own) > CLOSE else {}),
            "both short_mscale and long_mscale, or neither",
        )  # fmt: skip
    elif given and any(abs(value - applied) > CLOSE for value in given.values()):
        found = " and ".join(f"{value:g}" for value in dict.fromkeys(given.values()))
        yield Finding(
            "attention-factors-differ", "error", CONFIG,
            f"{block.key}.attention_factor, {block.key}.short_mscale, {block.key}.long_mscale",
            f"transformers applies {applied:.4f} ("
            + ("attention_factor" if stated is not None else "by its formula")
            + f"), short_mscale and long_mscale say {found}.",
            among(f"applies {applied:.4f}", T4, T5) | among(f"applies {found}", VLLM, SGLANG)
            | {MLX: f"applies {own:.4f}"},
            "attention_factor, short_mscale and long_mscale with the same number",
        )  # fmt: skip
    elif abs(applied - own) > CLOSE:
        by = "attention_factor" if stated is not None else "factor"
        engines = in_mlx if given else among(f"applies {own:.4f}, silently", VLLM, SGLANG, MLX)
        if stated is None:
            engines[T4] = f"applies {own:.4f}"
        instead = f"factor {window / original:g}, or attention_factor, short_mscale and long_mscale"
        if stated is not None:
            instead = f"short_mscale and long_mscale = {applied:.6g} beside it"
            if given:  # what every other engine reads
                instead = (
                    "for MLX the factor in the weights that make the queries, times its square, as"
                    " `longrope export --engine mlx` has it"
                )
        yield Finding(
            "attention-factor-ignored" if stated is not None else "factor-differs",
            "error", CONFIG, f"{block.key}.{by}",
            f"transformers 5 applies {applied:.4f} by {by}; the windows ({window} / {original})"
            f" make sqrt(1 + ln s / ln L) = {own:.4f}.",
            engines, instead,
        )  # fmt: skip
