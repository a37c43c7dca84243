"""
What the installed transformers does with every faulty configuration of tests/test_audit.py.

    python tests/benchmarks/audit_in_transformers.py

Prints a table: at a short and at the longest length by how much the slowest pair is slowed down
against theta 10000 and no scaling, and what multiplies cos and sin; or how loading ends. Run it in
an environment of transformers 4, too, to see what that does.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_audit import FAULTS

SMALL = {
    "num_hidden_layers": 1,
    "intermediate_size": 8,
    "vocab_size": 16,
    "num_key_value_heads": 1,
}


def turned(config: dict) -> str:
    """Slow-down of the slowest pair and attention scaling, at 100 tokens and at the window."""
    config = {**config, **SMALL}
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    loaded = AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(loaded)
    rotary = type(model.model.rotary_emb)(config=loaded)
    found = []
    for length in (100, loaded.max_position_embeddings):
        cos, sin = rotary(torch.zeros(1, 1, 1), torch.tensor([[length - 1]]))
        pairs = len(rotary.inv_freq)
        plain = 10_000.0 ** (-2 * (pairs - 1) / (2 * pairs))
        slower, scaling = plain / rotary.inv_freq[-1].item(), (cos**2 + sin**2).sqrt().max().item()
        found.append(f"{slower:.4g}x, {scaling:.3f}")
    return " | ".join(found)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[1]).parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print(f"transformers {transformers.__version__}\n")
    print("| report | found | at 100 tokens | at the window |\n| :-- | :-- | :-- | :-- |")
    for name, (config, codes) in FAULTS.items():
        try:
            told = turned(config)
        except Exception as error:  # whatever it ends with is the finding
            told = f"{type(error).__name__} | {type(error).__name__}"
        print(f"| {name} | {', '.join(sorted(codes))} | {told} |")


if __name__ == "__main__":
    main()
