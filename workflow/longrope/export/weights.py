"""
The weights of an export: those of the checkpoint as they are, or with an attention factor put into
the query projections.

An attention factor multiplies cos and sin, so the product of a query and a key by its square, as
far as the head turns. Multiplying what makes the queries by that square does the same, in every
engine; the weights round anew in the type that they are stored in. Tensors never leave
safetensors.
"""

import re
from pathlib import Path

from longrope.errors import UserError
from longrope.factors import Rope
from longrope.files import copy_file, read_json, write_json
from longrope.models.origin import carried

QUERIES = {  # model_type -> what makes the queries, and how their rows are laid out
    "llama": (r"self_attn\.q_proj\.(weight|bias)$", "heads"),
    "mistral": (r"self_attn\.q_proj\.(weight|bias)$", "heads"),
    "qwen2": (r"self_attn\.q_proj\.(weight|bias)$", "heads"),
    "gemma": (r"self_attn\.q_proj\.(weight|bias)$", "heads"),
    "olmo": (r"self_attn\.q_proj\.(weight|bias)$", "heads"),
    "olmo2": (r"self_attn\.q_norm\.weight$", "heads"),  # the norm would undo it before
    "qwen3": (r"self_attn\.q_norm\.weight$", "head"),
    "phi3": (r"self_attn\.qkv_proj\.weight$", "first"),
    "gpt_neox": (r"attention\.query_key_value\.(weight|bias)$", "within"),
}


def carry(source: Path, target: Path) -> None:
    """Copy what belongs to a checkpoint, and no code. Nothing is linked: who edits an export must
    not edit the study."""
    for name in carried(source):
        (target / name).parent.mkdir(exist_ok=True)
        copy_file(source / name, target / name)


def check_foldable(config: dict) -> None:
    """Raise UserError unless an attention factor can be put into the weights of such a model."""
    kind = config.get("model_type", "unknown")
    if kind not in QUERIES:
        raise UserError(
            f"an attention factor cannot be put into the weights of a {kind} model, only of"
            f" {', '.join(QUERIES)}: export for an engine that reads it (--engine transformers),"
            " or search factors with attention_factor: none"
        )
    if config.get("clip_qkv") is not None:
        raise UserError(
            f"an attention factor cannot be put into the weights: clip_qkv ="
            f" {config['clip_qkv']} cuts queries after the projection; export for an engine that"
            " reads it (--engine transformers)"
        )


def rewrite(
    folder: Path, config: dict, rope: Rope, *, factor: float = 1.0, dtype: str | None = None
) -> None:
    """Multiply queries by the square of an attention factor and store floats in another type, in
    every safetensors file of a folder."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    kind = getattr(torch, dtype) if dtype else None
    pattern, layout = QUERIES.get(config["model_type"], ("", ""))
    changed = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            stored = kind if kind and tensor.is_floating_point() else tensor.dtype
            if factor != 1 and re.search(pattern, name):
                rows = _rows(config, rope, layout, factor**2, tensor.shape[0])
                rows = rows.reshape(-1, *[1] * (tensor.dim() - 1))
                tensor, changed = tensor.to(torch.float64) * rows, changed + 1
            tensors[name] = tensor.to(stored)
        save_file(tensors, file, metadata)
    if factor != 1 and not changed:
        raise UserError(f"{folder}: no tensor matches {pattern}, which makes the queries")


def _rows(config: dict, rope: Rope, layout: str, scale: float, count: int):
    """What each row of the tensor is multiplied by: the dimensions of a query that turn."""
    import torch

    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    head = torch.ones(size, dtype=torch.float64)
    head[: rope.rotary_dim] = scale
    match layout:
        case "head":
            return head
        case "heads":
            return head.repeat(heads)
        case "first":  # queries of all heads, then keys, then values
            return torch.cat([head.repeat(heads), torch.ones(count - heads * size).double()])
        case "within":  # query, key and value of the first head, of the second, ...
            return torch.cat([head, torch.ones(2 * size).double()]).repeat(heads)
    raise ValueError(layout)


def tidy_tokenizer(folder: Path, window: int) -> None:
    """Name the tokenizer as transformers 4 knows it, too (5 calls every fast one
    TokenizersBackend), and no code for it; nothing is to cut text short of the window."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return
    config = read_json(path)
    config.pop("auto_map", None)  # it names code, which is not carried
    if config.get("tokenizer_class") == "TokenizersBackend":
        own = ("backend", "is_local", "local_files_only")
        config = {key: value for key, value in config.items() if key not in own}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, _raised(config, "model_max_length", window))


def raise_generation(folder: Path, window: int) -> None:
    """Let `generate` without a number of new tokens go on up to the window, if it had a limit."""
    path = folder / "generation_config.json"
    if path.exists():
        write_json(path, _raised(read_json(path), "max_length", window))


def _raised(config: dict, key: str, window: int) -> dict:
    """A configuration whose limit, if it has one, is at least the window."""
    limit = config.get(key)
    low = isinstance(limit, int | float) and limit < window
    return config | ({key: window} if low else {})
