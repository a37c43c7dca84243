"""
The types and ranges of the keys that the other checks compute with; checked before any of them.

A value that is no number, or one that nothing can be computed with, is a finding by itself, and is
taken out: what depends on it is not checked, as it would be judged by a default.
"""

import math
import sys
from collections.abc import Callable, Iterator

from longrope.audit.finding import Finding, everywhere
from longrope.windows import LONGEST

CONFIG = "config.json"
ORIGINAL = "original_max_position_embeddings"
WINDOW = "max_position_embeddings"
WINDOWS = (WINDOW, "n_positions", "seq_length", "model_max_length")  # where engines look for it
THETAS = ("rope_theta", "rotary_emb_base", "rope_embedding_base")
BY_FACTOR = ("linear", "dynamic", "yarn", "llama3")


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a number, of a size that can be computed with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max


def is_whole(value: object) -> bool:
    """Whether it is a whole one."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_base(value: object) -> bool:
    """Whether it is a number that a frequency can be a power of."""
    return is_number(value) and 1 < value < math.inf


Rule = tuple[Callable[[object], bool], Callable[[object], bool], str]  # type, range, both in words

TOKENS: Rule = (is_whole, lambda value: 0 < value <= LONGEST, "a whole number of tokens, 1 or more")
COUNT: Rule = (is_whole, lambda value: 0 < value <= LONGEST, "a whole number, 1 or more")
SHARE: Rule = (is_number, lambda value: 0 < value <= 1, "a number above 0, at most 1")
ABOVE: Rule = (is_number, lambda value: 0 < value < math.inf, "a finite number above 0")
NOT_BELOW: Rule = (is_number, lambda value: 0 <= value < math.inf, "a finite number, 0 or more")
FINITE: Rule = (is_number, math.isfinite, "a finite number")
WORDS: Rule = (
    lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    lambda value: True,
    "a list of the kind of each layer",
)
BASE: Rule = (is_number, is_base, "a finite number above 1")
WORD: Rule = (lambda value: isinstance(value, str), lambda value: True, "a name")

OF_CONFIG: dict[str, Rule] = {
    WINDOW: TOKENS, "n_positions": TOKENS, ORIGINAL: TOKENS, "sliding_window": TOKENS,
    "hidden_size": COUNT, "num_attention_heads": COUNT,
    "head_dim": COUNT, "qk_rope_head_dim": COUNT, "vocab_size": COUNT, "layer_types": WORDS,
    "partial_rotary_factor": SHARE, "rotary_pct": SHARE,
}  # fmt: skip
OF_BLOCK: dict[str, Rule] = {
    ORIGINAL: TOKENS, "factor": FINITE, "attention_factor": ABOVE, "attn_factor": ABOVE,
    "short_mscale": ABOVE, "long_mscale": ABOVE, "mscale": NOT_BELOW, "mscale_all_dim": NOT_BELOW,
    "beta_fast": ABOVE, "beta_slow": ABOVE, "low_freq_factor": ABOVE, "high_freq_factor": ABOVE,
    "partial_rotary_factor": SHARE,
}  # fmt: skip
PER_LAYER = ("hidden_size", "num_attention_heads", "head_dim")  # in some models a list


def wrong_of_config(config: dict) -> Iterator[Finding]:
    """What is wrong with values of the top level."""
    for key, rule in OF_CONFIG.items():
        value = config.get(key)
        if key == "sliding_window" and not config.get("use_sliding_window", True):
            continue  # not read
        if value is not None and not (key in PER_LAYER and isinstance(value, list)):
            yield from judge(CONFIG, key, value, rule)
    for key in THETAS:
        yield from _theta(key, config.get(key))


def wrong_of_block(key: str, values: dict, type_: str | None) -> Iterator[Finding]:
    """What is wrong with values of a block."""
    for name, rule in OF_BLOCK.items():
        value = values.get(name)
        if value is None or (name == "factor" and type_ in BY_FACTOR and not is_number(value)):
            continue  # a formula without its factor has a finding of its own
        yield from judge(CONFIG, f"{key}.{name}", value, rule)
    yield from _theta(f"{key}.rope_theta", values.get("rope_theta"))


def judge(
    file: str, key: str, value: object, rule: Rule, engines: dict[str, str] | None = None
) -> Iterator[Finding]:
    """A finding, if a value breaks its rule."""
    of_type, in_range, words = rule
    if of_type(value) and in_range(value):
        return
    yield Finding(
        "value-out-of-range" if of_type(value) else "value-of-wrong-type", "error", file, key,
        f"{key.rpartition('.')[2]} is {shown(value)}: it must be {words}.",
        engines or everywhere("refuses to load, or computes with another value or nonsense"), words,
    )  # fmt: skip


def _theta(key: str, value: object) -> Iterator[Finding]:
    if value is not None and not is_base(value):
        yield Finding(
            "theta-not-a-base", "error", CONFIG, key, f"theta is {shown(value)}.",
            everywhere("cannot be loaded, or turns by meaningless angles"),
            "the number above 1 that the model was pre-trained with, such as 10000.0",
        )  # fmt: skip


def shown(value: object) -> str:
    """A value as a report shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
