"""
Text from an extended model: it continues a prompt, or answers a question over a long file.

The tier is chosen once, for prompt and new tokens together, so no key in the cache is ever turned
by other factors than the rest. What does not fit the longest window is refused before any work.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from longrope.errors import UserError
from longrope.extended import Tiers
from longrope.extended_model import ExtendedModel
from longrope.files import read_text
from longrope.windows import window_label


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen."""

    new_tokens: int
    temperature: float = 0.0  # 0: the likeliest token each time
    seed: int = 1

    def __post_init__(self) -> None:
        if self.new_tokens < 1:
            raise UserError(f"--new-tokens {self.new_tokens}: must be 1 or more")
        if not 0 <= self.temperature < math.inf:
            raise UserError(
                f"--temperature {self.temperature:g}: must be a finite number, 0 (the likeliest"
                " token each time) or more"
            )
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f"--seed {self.seed}: must be a whole number from 0 to 2^63 - 1")


def prompt_text(prompt: str | None, file: Path | None, question: str | None) -> str:
    """The text that a model is given: a prompt, or a file; UserError for both, or neither."""
    if (prompt is None) == (file is None):
        raise UserError("give either a prompt or --file, the text that a question is about")
    if file is None:
        if question is not None:
            raise UserError("--question needs --file, the text that it is about")
        if not prompt.strip():
            raise UserError("the prompt is empty: give some text to continue")
        return prompt
    text = read_text(file)
    if not text.strip():
        raise UserError(f"--file {file}: holds no text")
    return text


def prompt_tokens(tokenizer, text: str, question: str | None = None, *, chat: bool = True):
    """Tokens (1, T) of a text, and of a question behind it.

    They go through the tokenizer's chat template where it has one and `chat` is not refused; else
    a text stands as it is, and a question is asked as `Question: … Answer:`.
    """
    if chat and getattr(tokenizer, "chat_template", None):
        content = "\n\n".join(part for part in (text.rstrip(), question) if part)
        message = [{"role": "user", "content": content}]
        found = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return found["input_ids"]
    if question:
        before = f"{text.rstrip()}\n\n" if text else ""
        text = f"{before}Question: {question}\nAnswer:"
    return tokenizer(text, return_tensors="pt").input_ids


def check_room(tiers: Tiers, prompt: int, new: int) -> None:
    """Raise UserError if prompt and new tokens exceed the longest window."""
    longest = tiers.longest.window
    if prompt + new > longest:
        raise UserError(
            f"{prompt:,} tokens of prompt and {new:,} new ones are {prompt + new:,}, more than the"
            f" longest window, {window_label(longest)} ({longest:,}): shorten the text by"
            f" {prompt + new - longest:,} tokens, lower --new-tokens, or search factors for a"
            " longer window"
        )


def stream(model: ExtendedModel, tokenizer, tokens_BT, how: Decoding, out=None) -> str:
    """Generate, writing text to `out` (standard output) as it comes; returns all of it."""
    import torch

    check_room(model.tiers, tokens_BT.shape[1], how.new_tokens)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(how.seed)
        found = model.generate(
            tokens_BT,
            generation_config=decoding_config(model.model, tokenizer, how),
            attention_mask=torch.ones_like(tokens_BT),
            streamer=_streamer(tokenizer, out or sys.stdout),
        )
    return tokenizer.decode(found[0, tokens_BT.shape[1] :], skip_special_tokens=True)


def decoding_config(model, tokenizer, how: Decoding):
    """transformers' settings: the checkpoint's own ends of text, its other habits left out."""
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    ends = getattr(own, "eos_token_id", None)
    ends = tokenizer.eos_token_id if ends is None else ends
    first = ends[0] if isinstance(ends, list) else ends
    sampling = {"do_sample": True, "temperature": how.temperature} if how.temperature else {}
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        **({"do_sample": False} | sampling),
        max_new_tokens=how.new_tokens,
        eos_token_id=ends,
        pad_token_id=pad if pad is not None else first,
    )


def _streamer(tokenizer, out):
    """transformers' streamer, to any stream; it prints a word when it is whole."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            print(text, end="\n" if stream_end else "", file=out, flush=True)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
