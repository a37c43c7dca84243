"""
How answers are generated: greedily, with a KV cache, the prompt in one call.

So attention needs no mask. A prompt in chunks would need one of chunk x all tokens so far, which
excludes flash attention, to save what is small beside the cache.
"""

from transformers import GenerationConfig


def greedy(tokenizer, **more) -> GenerationConfig:
    """Settings in place of a checkpoint's own, which may hold a repetition penalty; `more` as in
    `GenerationConfig`."""
    return GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id or 0,
        **more,
    )
