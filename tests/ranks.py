"""
The stages as one rank of several runs them, or as a single process does: what test_parallel
compares. `python -m torch.distributed.run ... ranks.py FOLDER INPUTS PER_SEQUENCE` writes
FOLDER/measured.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from longrope.baselines import closed_form
from longrope.config.evaluation import PasskeyStage, PerplexityStage
from longrope.config.search import SearchSettings
from longrope.config.training import LoopSettings, TuningStage
from longrope.evaluate.passkey import evaluate_passkey
from longrope.evaluate.perplexity import evaluate_perplexity
from longrope.factors import RescaleFactors, Rope, write_factors
from longrope.losses import predictions, token_losses
from longrope.models.checkpoint import read_record
from longrope.parallel.place import here, join, leave
from longrope.parallel.sequence import spread_attention
from longrope.rope import install
from longrope.search.stage import search_factors
from longrope.training.finetune import finetune
from longrope.training.loop import Rate, train
from longrope.training.mixture import Batch

HEADS = {"grouped": (4, 2), "one for all": (4, 1), "not divided": (3, 3), "three and one": (3, 1)}
FAMILIES = ("qwen3", "phi3", "gpt_neox")
PAIRS = {"gpt_neox": 2}  # that turn in a head, where not all do
LENGTH = 101  # which two ranks do not divide
WAYS = {
    "full": {},
    "lora": {"lora": {"rank": 4}, "precision": "bfloat16"},
    "short": {"short": {"share": 0.5}, "batch": 4},
    "skipped": {"length": 64, "positions": "skipped", "checkpointing": True},
}


def llama(heads: int, groups: int):
    """A random Llama of two layers, with factors that leave the first four tokens alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16 * heads,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(heads)
        model = LlamaForCausalLM(config).eval()
    rope = Rope("toy", 10000.0, 16, 64, "0" * 16)
    rotary = install(model, rope)
    rotary.use([RescaleFactors(rope, 128, "test", tuple(1 + 0.2 * n for n in range(8)), n_hat=4)])
    return model


def of_family(family: str):
    """A random model of another architecture, whose head is its embedding, with YaRN's factors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=50,
        hidden_size=64,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval()
    rope = Rope("toy", 10000.0, PAIRS.get(family, 8) * 2, 64, "0" * 16)
    install(model, rope).use([closed_form("yarn", rope, 128)])
    return model


def batches_at(step: int) -> list[Batch]:
    """Long sequences and short ones, whose targets weigh from 0 to 4."""
    rng = np.random.default_rng(step)

    def batch(rows: int, length: int) -> Batch:
        weights = rng.choice([0.0, 0.2, 1.0, 4.0], size=(rows, length)).astype(np.float32)
        kinds = ("text", "word", "text", "digits-5")[:rows]
        return Batch(rng.integers(0, 50, (rows, length)), weights, kinds)

    return [batch(2, LENGTH), batch(4, 37)]


def losses_of_training(model, state: Path) -> list[list[float]]:
    """Losses and the norm of the gradient of six steps."""
    lines = train(
        model,
        lambda: [torch.optim.AdamW(model.parameters(), lr=0.01)],
        batches_at,
        Rate(6, warmup=2, hold=0.5, final=0.1),
        LoopSettings(checkpoint_every=4),
        state,
        micro_batch=1,
    )
    kinds = ("loss", "loss_text", "loss_word", "gradient_norm")
    return [[line[kind] for kind in kinds] for line in lines]


def measure(folder: Path, inputs: Path) -> dict:
    """Everything that must not depend on how many ranks there are."""
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (2, LENGTH)))
    measured = {}
    for name, heads in HEADS.items():
        model = llama(*heads)
        spread_attention(model)
        with torch.no_grad():
            measured[f"losses {name}"] = token_losses(model, tokens).tolist()
        measured[f"predictions {name}"] = predictions(model, tokens, 60).tolist()

    for name in FAMILIES:
        model = of_family(name)
        spread_attention(model)
        with torch.no_grad():
            measured[f"losses {name}"] = token_losses(model, tokens).tolist()

    measured["loop"] = losses_of_training(llama(4, 2), folder / "loop")
    measured["tied"] = losses_of_training(of_family("qwen3"), folder / "tied")

    base, text = inputs / "model", inputs / "tokens"
    rope = read_record(base).rope
    yarn = inputs / "yarn.json"
    if here().leads:
        write_factors(yarn, closed_form("yarn", rope, 128))
    here().share()
    for name, changes in WAYS.items():
        settings = {"method": "yarn", "window": 128, "steps": 5, "batch": 2, "learning_rate": 0.01}
        mixture = {"mixture": {"text": 0.5, "word": 0.5}}
        stage = TuningStage(name=name, tuning=settings | mixture | changes, seed=1)
        out, metrics, state = (folder / name / each for each in ("model", "metrics.jsonl", "state"))
        finetune(stage, base, yarn, text / "train", out, metrics, state, say=lambda text: None)
    here().share()  # rank 0 has written them
    for name in WAYS:
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        measured[f"tuning {name}"] = [json.loads(line)["loss"] for line in lines]

    search = SearchSettings(
        window=128,
        seed=1,
        budget={"evaluations": 20, "documents": 2},
        optimiser={"name": "bayesian", "ramps": 2},
        fitness={"perplexity": 1, "needle": 0.5},
        attention_factor="search",
    )
    found, trace = folder / "search.json", folder / "trace.jsonl"
    search_factors(
        search, base, text / "validation", found, trace, folder / "search", say=lambda text: None
    )
    stage = PerplexityStage(evaluation="a", method="yarn", windows={90: 4, 128: 3})
    evaluate_perplexity(stage, base, text / "validation", [yarn], folder / "p.json", folder / "p")
    keep_lines(folder / "p/records.jsonl", 3)  # as if it had been killed within the first length
    again = folder / "p-again.json"
    evaluate_perplexity(stage, base, text / "validation", [yarn], again, folder / "p")
    stage = PasskeyStage(evaluation="b", method="yarn", prompts={128: 5}, key="digits-5", seed=1)
    evaluate_passkey(stage, base, [yarn], folder / "k.json", folder / "k")
    return measured


def keep_lines(path: Path, number: int) -> None:
    """Cut a file of lines, before any rank goes on."""

    def cut() -> None:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:number]))

    here().once(cut)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    join(int(sys.argv[3]), patience=120)
    made = measure(out, Path(sys.argv[2]))
    if here().leads:
        (out / "measured.json").write_text(json.dumps(made))
    leave()
