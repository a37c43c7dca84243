"""
How much runs at a time, and how much is generated: what stages do and plans count.

Imports nothing, so that a plan is made without torch.
"""

# Numbers of a widest result at a time. A CPU reuses memory for small results; for large ones it
# asks the system for empty pages each time, which takes longer than the arithmetic.
SMALL, LARGE = 1 << 20, 1 << 25  # 4 and 128 MiB in float32
LEAST = 256  # tokens at a time, and multiples of it: fewer would read the weights too often
WHOLE = 1 << 18  # tokens of prompt and key up to which a passkey is generated, with a cache
BATCH_TOKENS = {  # of prompts or sequences that run together
    "passkey": 1 << 14,
    "ruler": 1 << 14,
    "benchmarks": 1 << 12,
}
ANSWER_TOKENS = {  # that are generated after a prompt
    "passkey": 6,  # about: a key's own
    "ruler": 128,  # as RULER does
}


def rows_of(width: int, numbers: int = LARGE) -> int:
    """How many tokens are worked on at a time, where each makes `width` numbers at its widest."""
    return max(1, numbers // width // LEAST) * LEAST


def is_generated(length: int) -> bool:
    """Whether the answer to a passkey of a length is generated, with a cache. Longer ones are read
    off one forward pass: a cache would not fit, and chunks of a prompt would need masks, which
    exclude flash attention."""
    return length <= WHOLE
