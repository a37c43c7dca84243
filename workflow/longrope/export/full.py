"""
The form that keeps everything: all tiers and n_hat, by a modelling file that travels along.

Its config.json holds one table as well, so where nobody trusts the file (transformers without
`trust_remote_code`, vLLM, SGLang) the folder is what the form `native` is, not a model without
factors. The file is `modeling_longrope.py` beside this one, with the family's class in its one
line that names it; it never imports this package.
"""

from pathlib import Path

from longrope.errors import UserError
from longrope.export.tables import as_list
from longrope.extended import Tiers
from longrope.files import write_text

MODULE = "modeling_longrope"
CLASS = "LongRopeForCausalLM"
PLAIN = "from transformers import LlamaForCausalLM as Plain"
FAMILIES = {  # model_type -> its class
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}


def full_keys(tiers: Tiers, folded: float) -> dict:
    """What a config.json needs beside one table of factors; `folded` is an attention factor that
    is in the weights already."""
    rope = tiers.rope
    return {
        "auto_map": {"AutoModelForCausalLM": f"{MODULE}.{CLASS}"},
        "longrope_tiers": {
            "rope_theta": rope.theta,
            "rotary_dim": rope.rotary_dim,
            "original_window": rope.original_window,
            "tiers": [
                {
                    "max_length": each.window,
                    "n_hat": each.n_hat,
                    "attention_factor": each.attention_factor / folded,
                    "lambda": as_list(each),
                }
                for each in tiers.factors
            ],
        },
    }


def write_module(folder: Path, config: dict) -> None:
    """Write the modelling file for the family of a config.json; UserError for an untried one."""
    kind = config.get("model_type", "unknown")
    if kind not in FAMILIES:
        raise UserError(
            f"the form full is not there for {kind} models, only for {', '.join(FAMILIES)}"
            " (transformers renames the head of GPT-NeoX for its own class alone): export native"
        )
    text = (Path(__file__).parent / f"{MODULE}.py").read_text(encoding="utf-8")
    own = PLAIN.replace("LlamaForCausalLM", FAMILIES[kind])
    if text.count(PLAIN) != 1:
        raise ValueError(f"{MODULE}.py must name its family in one line: {PLAIN}")
    write_text(folder / f"{MODULE}.py", text.replace(PLAIN, own))
