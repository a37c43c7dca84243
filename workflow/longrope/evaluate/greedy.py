"""
How answers are generated: greedily, with a KV cache, very long prompts a piece at a time.

A prompt in one call needs no mask and is fastest; what it takes beside the cache grows with its
length. After the first piece attention needs a mask of piece x all tokens so far, so pieces are as
long as that mask may be. The factors are set for the whole sequence before (`rope.py`): a piece is
turned as it would be in one call.
"""

from transformers import GenerationConfig

from longrope.memory import piece_of_prompt


def greedy(tokenizer, length: int, rows: int, **more) -> GenerationConfig:
    """Settings for `rows` sequences of at most `length` tokens, in place of a checkpoint's own,
    which may hold a repetition penalty. `more` as in `GenerationConfig`."""
    piece = piece_of_prompt(length, rows)
    return GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id or 0,
        prefill_chunk_size=piece if piece < length else None,
        **more,
    )
