"""
How much of an evaluation runs together, and how much it generates: what stages do and plans count.

Imports nothing, so that a plan is made without torch.
"""

BATCH_TOKENS = {  # of prompts or sequences that run together
    "passkey": 1 << 14,
    "ruler": 1 << 14,
    "benchmarks": 1 << 12,
}
ANSWER_TOKENS = {  # that are generated after a prompt
    "passkey": 6,  # about: a key's own
    "ruler": 128,  # as RULER does
}
