"""
Where a checkpoint comes from: a folder, the hub, or a GGUF file; and what of it is taken over.

No code is, and of pickled weights nothing but tensors.
"""

import contextlib
import os
import shutil
from pathlib import Path

from longrope.audit.gguf_file import open_gguf
from longrope.errors import UserError, one_line
from longrope.files import read_json
from longrope.models.checkpoint import CARD, LICENCES, quiet
from longrope.models.loading import load_causal, readable
from longrope.models.tensors import is_beside

CARRIED = (  # what is taken over from a checkpoint
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
    *LICENCES,
)
NEVER = (".py", ".bin", ".pt", ".pth", ".pkl")  # code, and weights that only unpickling reads
ADAPTER = "adapter_config.json"
KERNELS = (  # keys of a config.json that may name code of the hub, and win over what is asked for
    *("attn_implementation", "_attn_implementation"),
    *("experts_implementation", "_experts_implementation"),
)
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")  # where it has no safetensors


def existing_folder(path: Path) -> Path:
    """The folder, if it holds a whole checkpoint; UserError names what it lacks."""
    if not (path / "config.json").exists():
        raise UserError(f"{path}: no checkpoint there (no config.json)")
    config = read_json(path / "config.json")
    index = path / "model.safetensors.index.json"
    if not any(path.glob("*.safetensors")):
        index = path / "pytorch_model.bin.index.json"
        if not any(path.glob("pytorch_model*.bin")):
            raise UserError(
                f"{path}: no *.safetensors, nor pytorch_model*.bin; convert the weights with"
                " save_pretrained"
            )
    needed = files_of_index(index) if index.exists() else []
    if missing := [name for name in needed if not (path / name).exists()]:
        raise UserError(f"{path}: {missing[0]} is missing, which {index.name} names")
    if fetched := [key for key in KERNELS if "/" in str(config.get(key, ""))]:
        raise UserError(
            f"{path}/config.json: {fetched[0]} names a kernel of the hub ({config[fetched[0]]}),"
            " which is code that transformers would fetch and run: take that key out; a"
            " configuration's `attention` chooses a kernel"
        )
    if (path / ADAPTER).exists():
        raise UserError(
            f"{path}: {ADAPTER} makes transformers load another model in place of this one, and"
            " change it: merge the adapter into its base (peft's merge_and_unload) and save that,"
            " or take the file away"
        )
    return path


def files_of_index(index: Path) -> list[str]:
    """The files of weights that an index names; UserError unless all belong beside it."""
    weights = read_json(index).get("weight_map")
    if weights is None:
        raise UserError(f"{index}: has no weight_map of tensors to files; download it again")
    names = weights.values() if isinstance(weights, dict) else [weights]
    for name in names:
        if not is_beside(name):
            raise UserError(
                f"{index}: weight_map names {name!r}, where only files beside it belong: download"
                " the checkpoint again, from a place that you trust"
            )
    return sorted(set(names))


def download(repository: str, revision: str | None) -> Path:
    """A checkpoint of the hub in the cache, without code; UserError if it cannot be fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def fetch(*patterns: str) -> Path:
        wanted = [*patterns, CARD]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))

    try:
        folder = fetch(*CARRIED)
        return folder if any(folder.glob("*.safetensors")) else fetch(*CARRIED, *PICKLED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"the hub model {repository!r} (revision {revision or 'main'}) cannot be fetched:"
            f" {one_line(error)}. Check name and network, accept its licence, or name a local"
            " folder"
        ) from error


def carried(folder: Path) -> list[Path]:
    """The files of a checkpoint that belong to it, by their paths in it: weights, configuration,
    tokenizer, chat templates, licence."""
    found = {file for pattern in CARRIED for file in folder.glob(pattern) if file.is_file()}
    return sorted(file.relative_to(folder) for file in found if file.suffix not in NEVER)


def take_over(origin: Path, folder: Path) -> None:
    """Take over what belongs to a checkpoint: weights linked or converted, the rest as it is."""
    if not any(origin.glob("*.safetensors")):
        _convert(origin, folder)
    for name in carried(origin):
        source, target = origin / name, folder / name
        target.parent.mkdir(exist_ok=True)
        if target.suffix == ".safetensors":
            with contextlib.suppress(OSError):  # another file system
                os.link(source.resolve(), target)
                continue
        shutil.copyfile(source, target)


def _convert(origin: Path, folder: Path) -> None:
    """Write pickled weights as safetensors; nothing but tensors is unpickled."""
    quiet()
    load_causal(origin, dtype="auto").save_pretrained(folder)


def dequantise(path: Path, folder: Path) -> None:
    """Write the weights and the tokenizer of a GGUF file as a checkpoint in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    parent, gguf = path.parent, {"gguf_file": path.name}
    if not path.is_file():
        raise UserError(f"{path}: no such GGUF file")
    if scaling := _gguf_scaling(path):
        raise UserError(
            f"{path} is already rescaled ({scaling}), which transformers would drop: start from"
            " the checkpoint in safetensors"
        )
    tokenizer = readable(
        path,
        "no usable tokenizer",
        lambda: AutoTokenizer.from_pretrained(parent, trust_remote_code=False, **gguf),
    )
    loaded = load_causal(parent, path, dtype=torch.float32, **gguf)
    # save_pretrained refuses a model that remembers being quantised: fill a fresh one.
    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if "quantization" not in key}
    )
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _gguf_scaling(path: Path) -> str:
    """What rescales the RoPE of a GGUF file; empty if nothing does."""
    reader = open_gguf(path)
    for name, field in reader.fields.items():
        if name.endswith(".rope.scaling.type") and field.contents() != "none":
            return f"{name} = {field.contents()}"
    return next((tensor.name for tensor in reader.tensors if "rope_f" in tensor.name), "")
