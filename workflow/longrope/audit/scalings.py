"""
The numbers of a scaling by formula: linear, dynamic, yarn, llama3.
"""

import math
from collections.abc import Iterator

from longrope.audit.checkpoint import CLOSE, CONFIG, ORIGINAL, Block, Checkpoint
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
from longrope.audit.values import BY_FACTOR, shown


def check_scaling(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    """What is wrong with the numbers of a formula."""
    if block.type in BY_FACTOR:
        yield from _factor(block)
    if block.type == "yarn":
        yield from _yarn(block)
        if not checkpoint.kind.startswith(("deepseek", "kimi", "glm")):  # their code reads mscale
            yield from _yarn_attention(block)
    if block.type == "llama3":
        yield from _llama3(checkpoint, block)


def _factor(block: Block) -> Iterator[Finding]:
    value, factor = block.values.get("factor"), block.number("factor")
    key = f"{block.key}.factor"
    if "alpha" in block.values and value is None:
        return
    if factor is None:
        yield Finding(
            "factor-missing", "error", CONFIG, key,
            f"{block.type} has no factor" + ("." if value is None else f", but {shown(value)}."),
            among("refuses to load", T4, T5, SGLANG)
            | {VLLM: "refuses to load, or takes 1 for the window",
               LLAMA_CPP: "does not scale at all, silently"},
            "factor: the number of times that the window grew",
        )  # fmt: skip
    elif factor < 1 or not math.isfinite(factor):
        reciprocal = f" {1 / factor:g} is probably meant." if 0 < factor < 1 else ""
        yield Finding(
            "factor-below-one", "error", CONFIG, key,
            f"factor {factor:g} shortens the window instead of stretching it.{reciprocal}",
            among("warns in a log at most, and turns faster than in pre-training", T4, T5)
            | among("turns faster than in pre-training, silently", VLLM, SGLANG, LLAMA_CPP, MLX),
            "long window / original window, 1 or more",
        )  # fmt: skip
    elif factor == 1:
        yield Finding(
            "factor-one", "warning", CONFIG, key, f"{block.type} with factor 1 changes nothing.",
            everywhere("does not scale at all, silently"),
            "long window / original window, or no rope_scaling",
        )  # fmt: skip


def _yarn(block: Block) -> Iterator[Finding]:
    fast, slow = block.number("beta_fast") or 32, block.number("beta_slow") or 1
    if fast < slow:  # if they are equal, as in Kimi K2, there is no ramp but a step
        yield Finding(
            "betas-swapped", "error", CONFIG, f"{block.key}.beta_fast, {block.key}.beta_slow",
            f"beta_fast ({fast:g}) must not be below beta_slow ({slow:g}).",
            everywhere("a ramp the wrong way round: the fast pairs are stretched; at most a log"
                       " line says so"),
            "beta_fast 32 and beta_slow 1, unless it was tuned with others",
        )  # fmt: skip


def _yarn_attention(block: Block) -> Iterator[Finding]:
    """What multiplies cos and sin: engines agree only on YaRN's own 0.1 ln s + 1."""
    factor = block.number("factor")
    if not factor or factor < 1:
        return
    own = 0.1 * math.log(factor) + 1
    stated = block.number("attention_factor")
    if stated is not None and abs(stated - own) > CLOSE:
        multiplier = block.number("attn_factor")
        fits = multiplier is not None and abs(multiplier * own - stated) <= CLOSE
        if not fits:
            yield Finding(
                "attention-factor-ignored", "error", CONFIG, f"{block.key}.attention_factor",
                f"attention_factor is {stated:g}; YaRN's own, which some engines apply whatever is"
                f" stated, is 0.1 ln {factor:g} + 1 = {own:.4f}.",
                among(f"applies {own:.4f}, silently", VLLM, SGLANG, MLX),
                f'"attn_factor": {stated / own:.6g} beside it, which vLLM multiplies its own with',
            )  # fmt: skip
    mscale, all_dim = block.number("mscale"), block.number("mscale_all_dim")
    if stated is None and mscale is not None and not all_dim and mscale != 1:
        yield Finding(
            "mscale-ignored", "error", CONFIG, f"{block.key}.mscale",
            f"mscale ({mscale:g}) without mscale_all_dim is not read.",
            among(f"applies {own:.4f}, silently", T4, T5, VLLM, SGLANG)
            | {MLX: f"applies {0.1 * mscale * math.log(factor) + 1:.4f}"},
            "attention_factor with the number that is meant",
        )  # fmt: skip
    if stated is None and mscale and all_dim:
        theirs = (0.1 * mscale * math.log(factor) + 1) / (0.1 * all_dim * math.log(factor) + 1)
        if abs(theirs - own) > CLOSE:
            yield Finding(
                "mscale-ignored", "error", CONFIG, f"{block.key}.mscale, mscale_all_dim",
                f"mscale and mscale_all_dim make {theirs:.4f}; only DeepSeek's code reads them"
                " everywhere.",
                among(f"applies {own:.4f}, silently", VLLM, SGLANG)
                | among(f"applies {theirs:.4f}", T4, T5, MLX),
                "the rope_type of DeepSeek's models, or attention_factor",
            )  # fmt: skip


def _llama3(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    low, high = block.number("low_freq_factor"), block.number("high_freq_factor")
    missing = [
        key for key in ("low_freq_factor", "high_freq_factor") if block.number(key) is None
    ]  # fmt: skip
    if missing:
        yield Finding(
            "llama3-incomplete", "error", CONFIG, f"{block.key}.{', '.join(missing)}",
            f"llama3 needs {' and '.join(missing)}.",
            among("refuses to load", T4, T5, VLLM, SGLANG) | {LLAMA_CPP: "takes 1 and 4"},
            "low_freq_factor 1.0 and high_freq_factor 4.0, as in Llama 3.1",
        )  # fmt: skip
    elif high < low:  # if they are equal, there is no ramp but a step
        yield Finding(
            "frequency-factors-swapped", "error", CONFIG,
            f"{block.key}.low_freq_factor, {block.key}.high_freq_factor",
            f"high_freq_factor ({high:g}) must not be below low_freq_factor ({low:g}).",
            everywhere("a ramp the wrong way round; at most a log line"),
            "low_freq_factor 1.0 and high_freq_factor 4.0, as in Llama 3.1",
        )  # fmt: skip
    if not checkpoint.stated:
        yield Finding(
            "theta-missing", "error", CONFIG, "rope_theta",
            "llama3 rescales a theta that is not stated.",
            everywhere(f"turns by theta {checkpoint.default_theta:g}, silently"),
            '"rope_theta": 500000.0, as in Llama 3, or that of the pre-training',
        )  # fmt: skip
    original, window = checkpoint.original(block), checkpoint.window
    if original and window and original > window:
        yield Finding(
            "original-window-too-long", "error", CONFIG, f"{block.key}.{ORIGINAL}",
            f"the original window, {original}, is above the long one, {window}.",
            everywhere("stretches by the wrong wavelengths; at most a log line says so"),
            "the window of the pre-training",
        )  # fmt: skip
