"""
What surrounds the RoPE: sliding windows, the tokenizer's and the generation's limits.
"""

from collections.abc import Iterator

from longrope.audit.checkpoint import CONFIG, LONGROPE, Checkpoint
from longrope.audit.finding import (
    LLAMA_CPP,
    OF_OLLAMA,
    SGLANG,
    T4,
    T5,
    VLLM,
    Finding,
    among,
    everywhere,
)

OLLAMA = 4096  # tokens that Ollama serves by default, or fewer
TOKENIZER, GENERATION = "tokenizer_config.json", "generation_config.json"


def check_surroundings(checkpoint: Checkpoint) -> Iterator[Finding]:
    """What cuts the window short."""
    window = checkpoint.long_window
    if window is None:
        return
    yield from _sliding(checkpoint, window)
    limit = checkpoint.tokenizer.get("model_max_length")
    if isinstance(limit, int | float) and limit < window:
        yield Finding(
            "tokenizer-shorter", "warning", TOKENIZER, "model_max_length",
            f"model_max_length is {limit:g}, the window {window}.",
            among("with truncation=True cuts prompts there, silently; warns otherwise", T4, T5),
            f"{window}",
        )  # fmt: skip
    limit = checkpoint.generation.get("max_length")
    if isinstance(limit, int) and 20 < limit < window:
        yield Finding(
            "generation-shorter", "warning", GENERATION, "max_length",
            f"max_length is {limit}, the window {window}.",
            among("`generate` without max_new_tokens stops there, silently", T4, T5),
            f"{window}, or no max_length",
        )  # fmt: skip


def _sliding(checkpoint: Checkpoint, window: int) -> Iterator[Finding]:
    config = checkpoint.config
    sliding = config.get("sliding_window")
    if not (isinstance(sliding, int) and config.get("use_sliding_window", True)):
        return
    layers = config.get("layer_types") or []
    # Of so many layers one sees everything; some write a word of letters, such as LLLG.
    everything = "full_attention" in layers or config.get("sliding_window_pattern") not in (None, 1)
    if not any(block.rescales for block in checkpoint.blocks) or everything:
        return
    if sliding < window:
        yield Finding(
            "sliding-window", "error", CONFIG, "sliding_window",
            f"sliding_window is {sliding}, the rescaled window {window}: no layer sees further"
            " back.",
            everywhere("tokens beyond it are not seen, silently") | among(
                "tokens beyond it are not seen, or caps the window there", VLLM, SGLANG),
            "null (and use_sliding_window false), if the weights were tuned without it",
        )  # fmt: skip


def remarks(checkpoint: Checkpoint) -> Iterator[str]:
    """How engines treat a sound checkpoint, where that is worth knowing."""
    if not checkpoint.rotary:
        yield f"{checkpoint.kind} has no RoPE, so there is nothing of it to check"
        return
    for block in checkpoint.blocks:
        original = checkpoint.original(block)
        if block.type in LONGROPE and original:
            two = block.values.get("short_factor") != block.values.get("long_factor")
            if two:
                yield (
                    f"two tables: vLLM and SGLang use the long one for everything once"
                    f" --max-model-len exceeds {original}, MLX always, {LLAMA_CPP} once the context"
                    f" that is allocated does; transformers switches by the length of each call"
                )
        elif block.rescales and block.type != "dynamic":
            yield f"{block.type} is in force at every length, short ones included"
            break
    if (checkpoint.folder / "tuned_factors.json").exists():
        yield (
            "weights that this project tuned: by itself, config.json runs them with the original"
            " RoPE; use longrope.load, or export them"
        )
    if (checkpoint.long_window or 0) > OLLAMA:
        yield f"{OF_OLLAMA} serves {OLLAMA} of it at most unless num_ctx is set"
