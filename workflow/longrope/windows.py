"""
Context windows as people write them: `256`, `4k`, `2048k`, where 1k is 1024 tokens.

Paths, configurations and tables use the label, arithmetic uses the number of tokens.
"""

import re

from longrope.errors import UserError

PATTERN = r"[1-9][0-9]*k?"  # what a label looks like, also in the paths of results/
LONGEST = 1 << 40  # tokens; above it is no window, but a slip


def parse_window(text: str | int) -> int:
    """Tokens of a window's label: `"4k"` gives 4096, `256` and `"256"` give 256.

    Raises UserError for anything that is not a positive whole number with an optional k, and for
    one that no window is long.
    """
    label = str(text).strip()
    if not re.fullmatch(PATTERN, label):
        raise UserError(
            f"window {text!r}: write a whole number of tokens, with an optional k for 1024,"
            " such as 256, 4k or 2048k"
        )
    if len(label) > len(str(LONGEST)) + 1 or (tokens := _tokens(label)) > LONGEST:
        raise UserError(f"window {label[:20]}…: must be at most {LONGEST:,} tokens")
    return tokens


def _tokens(label: str) -> int:
    return int(label[:-1]) * 1024 if label.endswith("k") else int(label)


def window_label(tokens: int) -> str:
    """The label of a number of tokens: 4096 gives `"4k"`, 256 gives `"256"`."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)
