"""
How answers are generated: greedily, with a KV cache, long prompts a piece at a time.

After the first piece attention needs a mask of piece x all tokens so far; pieces are as long as
that mask may be. The factors are set for the whole sequence before (`rope.py`), so a piece is
turned as it would be in one call.
"""

from transformers import GenerationConfig

MASK = 1 << 30  # entries of a mask at the most, a byte each


def greedy(tokenizer, length: int, rows: int, **more) -> GenerationConfig:
    """Settings for `rows` sequences of at most `length` tokens, in place of a checkpoint's own,
    which may hold a repetition penalty. `more` as in `GenerationConfig`."""
    piece = MASK // (length * rows)
    return GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id or 0,
        prefill_chunk_size=max(1, piece) if piece < length else None,
        **more,
    )
