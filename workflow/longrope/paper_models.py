"""
The paper's two models, and the checkpoints of others that it measures, by their hub names.

A model is known by where it comes from, not by what a configuration calls it. A folder says
nothing of its origin, so it is none of these.
"""

from dataclasses import dataclass

from longrope.config import ModelSettings

BASES = {  # hub name -> as resources/paper/tables.csv has it
    "meta-llama/Llama-2-7b-hf": "llama2-7b",
    "mistralai/Mistral-7B-v0.1": "mistral-7b",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that others extended, as resources/paper/tables.csv has it."""

    base: str
    method: str


CHECKPOINTS = {
    "togethercomputer/LLaMA-2-7B-32K": Checkpoint("llama2-7b", "together-32k"),
    "Yukang/Llama-2-7b-longlora-100k-ft": Checkpoint("llama2-7b", "longlora-100k"),
    "codellama/CodeLlama-7b-hf": Checkpoint("llama2-7b", "codellama-100k"),
    "NousResearch/Yarn-Llama-2-7b-64k": Checkpoint("llama2-7b", "yarn-64k"),
    "NousResearch/Yarn-Llama-2-7b-128k": Checkpoint("llama2-7b", "yarn-128k"),
    "amazon/MistralLite": Checkpoint("mistral-7b", "mistrallite"),
    "NousResearch/Yarn-Mistral-7b-64k": Checkpoint("mistral-7b", "yarn-64k"),
    "NousResearch/Yarn-Mistral-7b-128k": Checkpoint("mistral-7b", "yarn-128k"),
}


def hub_name(settings: ModelSettings) -> str:
    """The hub name of a model; empty for one from elsewhere."""
    return settings.source.name if settings.source.kind == "hub" else ""


def base_of(settings: ModelSettings) -> str:
    """Which of the paper's two models a model is or was made of; empty if it is neither."""
    name = hub_name(settings)
    return CHECKPOINTS[name].base if name in CHECKPOINTS else BASES.get(name, "")


def checkpoint_of(settings: ModelSettings) -> str:
    """The paper's method that a published checkpoint is; empty for any other model."""
    name = hub_name(settings)
    return CHECKPOINTS[name].method if name in CHECKPOINTS else ""
