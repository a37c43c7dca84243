"""
The weights, by their index and headers alone: whether all files are there, and the head size.
"""

from collections.abc import Iterator
from pathlib import Path

from longrope.audit.checkpoint import CONFIG, Checkpoint
from longrope.audit.finding import Finding, everywhere
from longrope.errors import UserError
from longrope.files import read_json
from longrope.models.tensors import is_beside, read_header

INDEX = "model.safetensors.index.json"
OTHERS = (
    "*.bin",
    "*.pth",
    "*.pt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.npz",
)  # other kinds of weights


def check_weights(checkpoint: Checkpoint) -> Iterator[Finding]:
    """What the weights say against config.json; nothing where there are none (a config alone)."""
    folder = checkpoint.folder
    files = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).exists():
        named = set(_weight_map(folder / INDEX).values())
        outside = sorted(name for name in named if not is_beside(name))
        if outside:
            yield Finding(
                "weights-outside", "error", INDEX, "weight_map",
                f"{outside[0]!r} lies outside of the checkpoint.",
                everywhere("reads a file that is not part of the checkpoint"),
                "names of files beside the index: download it again, from a place that you trust",
            )  # fmt: skip
        if missing := sorted(named - {*outside} - {file.name for file in files}):
            yield Finding(
                "weights-missing", "error", INDEX, "weight_map",
                f"{len(missing)} of {len(named)} files are not there, such as {missing[0]}.",
                everywhere("refuses to load"), "the whole checkpoint: download or save it again",
            )  # fmt: skip
    for file in files:
        try:
            header = read_header(file)
        except UserError as error:
            yield Finding(
                "weights-unreadable", "error", file.name, "header", f"{error}.",
                everywhere("refuses to load"), "the whole file: download or save it again",
            )  # fmt: skip
            continue
        if (shape := _query_shape(header)) is not None:
            yield from _head_size(checkpoint, file.name, *shape)
            return


def unseen(folder: Path) -> Iterator[str]:
    """What a folder has no weights for that are looked into, as a remark."""
    if any(folder.glob("*.safetensors")) or (folder / INDEX).exists():
        return
    if others := sorted(file.name for kind in OTHERS for file in folder.glob(kind)):
        yield f"{others[0]} is not looked into: of weights, only *.safetensors are"
    else:
        yield "there are no weights in this folder: what is said here is of its configuration alone"


def _head_size(checkpoint: Checkpoint, file: str, name: str, rows: int) -> Iterator[Finding]:
    heads, size = checkpoint.config.get("num_attention_heads"), checkpoint.head_size
    if not (isinstance(heads, int) and size) or rows == heads * size or rows % heads:
        return
    gated = checkpoint.kind.startswith(("qwen3_next", "qwen3_5"))  # a gate beside the query
    if gated and rows == 2 * heads * size:
        return
    yield Finding(
        "head-size", "error", CONFIG, "head_dim",
        f"{name} in {file} has {rows} rows: heads of {rows // heads}, where config.json makes them"
        f" {size}.",
        everywhere("refuses to load, or turns by the frequencies of another head size"),
        f'"head_dim": {rows // heads}, and factor tables of {rows // heads // 2} numbers'
        " (times partial_rotary_factor)",
    )  # fmt: skip


def _query_shape(header: dict) -> tuple[str, int] | None:
    for name in sorted(header):
        if name.endswith(".self_attn.q_proj.weight") and header[name].get("dtype") != "U8":
            return name, header[name]["shape"][0]
    return None


def _weight_map(index: Path) -> dict:
    try:
        found = read_json(index).get("weight_map")
    except UserError:
        return {}
    found = found if isinstance(found, dict) else {}
    return {key: file for key, file in found.items() if isinstance(file, str)}
