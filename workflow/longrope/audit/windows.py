"""
The windows: before and after rescaling, and the factor that should lie between them.
"""

import math
from collections.abc import Iterator

from longrope.audit.checkpoint import (
    CONFIG,
    LONGROPE,
    ORIGINAL,
    ORIGINAL_OF,
    Block,
    Checkpoint,
)
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
from longrope.audit.values import WINDOW

FROM_ORIGINAL = (*LONGROPE, "yarn", "llama3")  # whose frequencies depend on the window before
READS_THE_BLOCK = ("phi3small",)  # model_types whose own code takes the original window from it
TURNS = 25  # of the middle pair: more than in any window that a base was trained for; `turns_of`
TURNED_MORE = ("ernie4_5", "ernie4_5_moe")  # trained so: 30 turns, as Llama 3.1 without its scaling


def check_windows(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    """What is wrong with the windows."""
    if checkpoint.window is None:
        yield Finding(
            "window-missing", "warning", CONFIG, WINDOW, "the window is not stated.",
            among("assumes 2048 or refuses longer prompts", VLLM, SGLANG)
            | {LLAMA_CPP: "cannot be converted"},
            f"{WINDOW}: the window in tokens",
        )  # fmt: skip
        return
    if not block.rescales:
        yield from _claimed(checkpoint)
    elif block.type in FROM_ORIGINAL:
        yield from _original(checkpoint, block)
        yield from _raised(checkpoint, block)
    elif block.type in ("linear", "dynamic"):
        yield from _counted(checkpoint, block)


def _original(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    """Whether the original window is stated, where each engine looks for it, and once."""
    top, inside = checkpoint.config.get(ORIGINAL), block.values.get(ORIGINAL)
    instead = f"the window of the pre-training as {ORIGINAL}, at the top level and in the block"
    longrope = block.type in LONGROPE
    if top is None and inside is None and checkpoint.kind not in ORIGINAL_OF:
        silent = (
            f"takes {WINDOW} ({checkpoint.window}) for it: the long factors are never used"
            if longrope
            else f"takes {WINDOW} ({checkpoint.window}) for it: the wrong pairs are stretched"
        )
        old = {T4: silent} if block.type != "llama3" else {T4: "refuses to load"}
        yield Finding(
            "original-window-missing", "error", CONFIG, f"{block.key}.{ORIGINAL}",
            f"{block.type} needs the window before rescaling, which is not stated.",
            {**old, T5: f"{silent}, silently", VLLM: "refuses to load",
             SGLANG: "refuses to load", LLAMA_CPP: "cannot be converted, or loses the scaling"},
            instead,
        )  # fmt: skip
    elif (
        top is None
        and inside not in (None, checkpoint.window)  # what transformers 4 takes for it
        and longrope
        and _sees_it(checkpoint, block)
    ):
        yield Finding(
            "original-window-only-in-block", "error", CONFIG, ORIGINAL,
            f"the original window, {inside}, stands only in {block.key}.",
            {T4: f"takes {WINDOW} for it: always the short factors, silently"},
            f'"{ORIGINAL}": {inside} at the top level as well',
        )  # fmt: skip
    elif inside is None and top is not None and not longrope:
        yield Finding(
            "original-window-only-at-top", "error", CONFIG, f"{block.key}.{ORIGINAL}",
            f"the original window, {top}, stands only at the top level.",
            {T4: "refuses to load" if block.type == "llama3"
             else f"takes {WINDOW} for it: the wrong pairs are stretched, silently"},
            f'"{ORIGINAL}": {top} in {block.key} as well',
        )  # fmt: skip
    if top is not None and inside is not None and top != inside:
        yield Finding(
            "original-windows-differ", "error", CONFIG, f"{ORIGINAL}, {block.key}.{ORIGINAL}",
            f"the original window is {top} at the top level and {inside} in {block.key}.",
            {T5: f"takes {top}", VLLM: f"takes {top}",
             T4: f"takes {top if longrope else inside}"},
            "the window of the pre-training in both places",
        )  # fmt: skip


def _sees_it(checkpoint: Checkpoint, block: Block) -> bool:
    """Whether it matters which of two tables is used, or what the ratio of the windows is."""
    two = not block.one_table and checkpoint.tables_fit(block)
    return checkpoint.kind not in (*ORIGINAL_OF, *READS_THE_BLOCK) and (
        two or "attention_factor" not in block.values
    )


def _raised(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    """Whether the long window is the original one times the factor."""
    original, window, factor = (
        checkpoint.original(block), checkpoint.window, block.number("factor")
    )  # fmt: skip
    if original is None:
        return
    may_be_one = block.one_table or not checkpoint.tables_fit(block)  # which one cut short may be
    if window == original and block.type in LONGROPE and may_be_one:
        return  # as what is exported here
    if window < original or (window == original and block.type != "yarn"):
        meant = round(original * factor) if factor else 0
        wanted = f" (factor {factor:g}: {meant})" if meant > window else ""
        what = "the long factors are never used" if block.type in LONGROPE else "cut short"
        yield Finding(
            "window-not-raised", "error", CONFIG, WINDOW,
            f"{WINDOW} is {window}, not above the original window {original}.",
            among(f"serves at most {window} tokens, silently: {what}", VLLM, SGLANG, LLAMA_CPP)
            | among("takes a ratio of 1 where it computes the attention scaling from the windows",
                    T4, MLX),
            f"{WINDOW}: the window after rescaling{wanted}",
        )  # fmt: skip
        return
    if factor and block.type == "yarn" and window not in (original, round(original * factor)):
        # A window between the two, such as Qwen3's, costs length in some engines, and no more.
        between = window < round(original * factor)
        yield Finding(
            "factor-differs", "warning" if between else "error", CONFIG,
            f"{WINDOW}, {block.key}.factor",
            f"{WINDOW} / {ORIGINAL} is {window / original:g}, factor {factor:g}.",
            among(f"stretches by {factor:g}: made for {round(original * factor)} tokens", T4, T5)
            | among(f"serves {round(original * factor)} tokens", VLLM, SGLANG)
            | {LLAMA_CPP: f"serves {window} tokens"},
            f"{WINDOW}: {round(original * factor)}, or the factor {window / original:g}",
        )  # fmt: skip


def _counted(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    """linear and dynamic do not say which window they were made from."""
    factor, original = block.number("factor") or 1.0, block.values.get(ORIGINAL)
    window = checkpoint.window
    if original and window not in (original, round(original * factor)):
        yield Finding(
            "factor-differs", "error", CONFIG, f"{WINDOW}, {block.key}.factor",
            f"{WINDOW} / {ORIGINAL} is {window / original:g}, factor {factor:g}.",
            among(f"stretches by {factor:g}", T4, T5, VLLM, SGLANG, LLAMA_CPP, MLX),
            f"{WINDOW}: {round(original * factor)}, or another factor",
        )  # fmt: skip
    if block.type == "dynamic":
        yield Finding(
            "dynamic-by-call", "warning", CONFIG, f"{block.key}.rope_type",
            f"dynamic stretches only beyond {WINDOW} ({window}), by the length of each call.",
            among("keys in the cache keep the frequencies of earlier, shorter calls, and if"
                  f" {WINDOW} is the window after rescaling, nothing is ever stretched", T4, T5)
            | among("uses the frequencies of the longest window for every length", VLLM, SGLANG)
            | among("does not scale at all", LLAMA_CPP),
            "yarn or longrope, whose frequencies do not change with the call",
        )  # fmt: skip
        return
    known = original and window == round(original * factor) > original
    if known or (original is None and turns_of(window, checkpoint.theta) > TURNS):
        yield Finding(
            "window-counted-twice", "warning", CONFIG, WINDOW,
            f"{WINDOW} ({window}) is the window after rescaling, as it seems.",
            among(f"serves {window} x {factor:g} = {round(window * factor)} tokens", VLLM, SGLANG),
            f"serve it with --max-model-len {window} (SGLang: --context-length)",
        )  # fmt: skip


def turns_of(window: int, theta: float) -> float:
    """How often the middle pair turns in a window without scaling: window / (2 pi sqrt(theta)).

    6.5 in LLaMA-2, 5 in Mixtral, 13 in Gemma, 21 in Qwen2-7B at 131072: what tells a window that a
    theta was trained for from one that it was not.
    """
    return window / (2 * math.pi * math.sqrt(theta))


def _claimed(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A long window with neither scaling nor a theta for it: the scaling was probably lost.

    A sliding window is what counts where there is one: Mistral v0.1.
    """
    config, theta = checkpoint.config, checkpoint.theta
    sliding = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    window = min(checkpoint.window, sliding or checkpoint.window)
    turns = turns_of(window, theta)
    chunked = config.get("dual_chunk_attention_config")  # no distance exceeds a chunk: Qwen2.5-1M
    if checkpoint.pairs is None or chunked or turns <= TURNS or checkpoint.kind in TURNED_MORE:
        return
    # Where a part of each head does not turn, far tokens are seen all the same: GLM-4 at 32k.
    whole = checkpoint.head_size == 2 * checkpoint.pairs
    wrong = turns > (2 if whole else 4) * TURNS
    yield Finding(
        "scaling-lost", "error" if wrong else "warning", CONFIG, "rope_scaling",
        f"a window of {window} at theta {theta:g} without any scaling: the middle pair turns"
        f" {turns:.0f} times in it, at most 21 times in models that were trained so, but for one"
        " family. The scaling that the weights were tuned with was probably not saved.",
        everywhere("runs with the RoPE of the pre-training, silently: noise beyond its window"),
        "the rope_scaling (or the theta) that the weights were tuned with",
    )  # fmt: skip
