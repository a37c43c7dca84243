"""
Tuning by low-rank changes (LoRA, Hu et al. 2021), for a model whose optimiser would not fit.

The attention's matrices get a change of low rank through `peft`, and nothing else trains but norms
and embeddings, which long windows need (LongLoRA, Chen et al. 2023, arXiv 2309.12307). At the end
the changes are added to the matrices, so the result is a checkpoint like any other. Where
embeddings are tied to the head, the one matrix trains as both. What trains is float32; frozen
matrices that are stored in bfloat16, and run in it, are held in it.
"""

import importlib.util
from collections.abc import Callable

import torch
from torch import nn

from longrope.config.training import Lora
from longrope.errors import UserError
from longrope.models.architectures import attention_projections, body_of, norms


def check_peft() -> None:
    """Raise UserError if the package that LoRA needs is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise UserError("lora: this needs the package 'peft': pip install \"longrope[lora]\"")


def add_lora(model, lora: Lora, seed: int) -> Callable[[], None]:
    """Put changes of low rank into `model` and freeze the rest; returns what merges them.

    The changes begin as nothing: one factor is zero, the other drawn from `seed`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,
        target_modules=attention_projections(model),
    )
    wrapper = get_peft_model(model, config)  # `model` itself is changed; the wrapper is not run
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            drawn = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
            parameter.data.copy_(drawn)
    whole = norms(model) if "norms" in lora.train else []
    if "embeddings" in lora.train:
        whole.append(model.get_input_embeddings())
    for module in whole:
        module.requires_grad_(True)

    def merge() -> None:
        model.float()
        wrapper.merge_and_unload(progressbar=False)

    return merge


def hold_in_bfloat16(model) -> None:
    """Hold the frozen matrices of the body in bfloat16, as autocast makes them at every use.

    Weights that were stored in it lose nothing. Embeddings and norms stay as they are, and with
    them the precision of what passes from layer to layer.
    """
    for module in body_of(model).modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.to(torch.bfloat16)
