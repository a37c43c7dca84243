"""
A checkpoint of anybody, imported or not: its RoPE and its weights, used where they lie.

Of one that was never brought in the same is wanted as of what the workflow brings in: weights in
safetensors, and a RoPE that nothing rescales.
"""

import dataclasses
import json
import shlex
from pathlib import Path

from longrope.config.base import name_of
from longrope.errors import UserError
from longrope.factors import Rope
from longrope.models.architectures import (
    PLAIN,
    complete_config,
    rope_block,
    rope_of_config,
    rope_type_of,
)
from longrope.models.checkpoint import (
    METADATA,
    device,
    fingerprint_of,
    load_model,
    quiet,
    read_record,
)
from longrope.models.loading import load_causal
from longrope.models.tensors import check_whole


def rope_of_folder(folder: Path) -> tuple[Rope, str]:
    """The RoPE of a checkpoint, and the hash of its weights; of any folder, imported or not."""
    if (folder / METADATA).exists():
        record = read_record(folder)
        return record.rope, record.fingerprint
    config = complete_config(folder)
    check_takes_factors(folder, config)
    rope = rope_of_config(config, folder.resolve().name)
    _check_converted(folder, rope.original_window)
    weights = fingerprint_of(folder)
    return dataclasses.replace(rope, fingerprint=weights), weights


def _check_converted(folder: Path, window: int) -> None:
    """Raise UserError for pickled weights, by whose hash no factors know them."""
    from longrope.models.origin import existing_folder

    if any(existing_folder(folder).glob("*.safetensors")):
        return
    source = {"kind": "folder", "path": str(folder)}
    settings = json.dumps({"source": source, "original_window": window})
    name = folder.resolve().name
    out = folder.resolve().with_name(f"{name}-safetensors")
    words = ["longrope", "import-model", "--name", name_of(name), "--out", str(out)]
    raise UserError(
        f"{folder}: its weights are pickled: convert them once, and take {out}:"
        f" {shlex.join([*words, '--settings', settings])}"
    )


def check_takes_factors(folder: Path, config: dict) -> None:
    """Raise UserError for a checkpoint that is rescaled by itself, an export for one."""
    if rope_type_of(config) != PLAIN:
        raise UserError(
            f"{folder}: its RoPE is rescaled already ({rope_block(config).get('rope_type')}), so it"
            " takes no factors: load it with transformers"
        )


def load_any(folder: Path):
    """The model of a checkpoint, whether this project imported it or not."""
    import torch

    from longrope.models.origin import existing_folder
    from longrope.pieces import prepare

    if (folder / METADATA).exists():
        return load_model(folder)
    quiet()
    where = device()
    dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
    check_whole(sorted(existing_folder(folder).glob("*.safetensors")))
    model = load_causal(folder, dtype=dtype).to(where).eval()
    prepare(model)
    return model
