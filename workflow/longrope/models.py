"""
Checkpoints: bringing one in, reading it, saving one, and what this project notes beside it.

Every checkpoint under results/ is an ordinary Hugging Face folder (safetensors) plus
`longrope.json`: which pre-trained weights it descends from, how its RoPE is built, and the factors
that it was tuned with. Weights tuned here keep the fingerprint of their base, so that factors are
never put on another model unnoticed. Torch and transformers are imported where they are needed.
"""

import contextlib
import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from longrope.config import FolderModel, GgufModel, HubModel
from longrope.config.base import BASE
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, read_factors, write_factors
from longrope.files import read_json, replacing, sha256_of, write_json

METADATA = "longrope.json"
TUNED = "tuned_factors.json"  # in checkpoints that were tuned here
UNKNOWN = "unknown"  # a fingerprint that is not known yet
SCHEMA = 1  # of longrope.json
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
)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What `longrope.json` says of a checkpoint."""

    rope: Rope  # with the fingerprint of the base weights
    weights: str  # base, or the name of the tuning
    fingerprint: str  # hash of these very weights
    source: dict  # where the base weights come from
    changes: dict  # what was changed in the checkpoint's own config, such as sliding_window

    @property
    def precision(self) -> str:
        """In which type it runs when it is not trained: float32, bfloat16, or auto."""
        return self.source.get("precision", "auto")

    def tuned_as(self, weights: str) -> "ModelRecord":
        """The record of weights that are tuned from these."""
        return dataclasses.replace(self, weights=weights)


def read_record(folder: Path) -> ModelRecord:
    """The record beside a checkpoint; UserError if there is none."""
    path = Path(folder) / METADATA
    if not path.exists():
        raise UserError(
            f"{folder}: no {METADATA}; bring a checkpoint in with `longrope import-model` first"
        )
    record = read_json(path)
    try:
        if record["schema"] != SCHEMA:
            raise UserError(f"schema {record['schema']!r}, this version reads {SCHEMA}")
        rope = Rope(
            model=record["model"],
            theta=record["rope_theta"],
            rotary_dim=record["rotary_dim"],
            original_window=record["original_window"],
            fingerprint=record["base_fingerprint"],
        )
        return ModelRecord(
            rope, record["weights"], record["fingerprint"], record["source"], record["changes"]
        )
    except KeyError as error:
        raise UserError(f"{path}: the key {error} is missing") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _write_record(folder: Path, record: ModelRecord) -> None:
    """Write `longrope.json` into a checkpoint, with the fingerprint of the weights there.

    Weights that are called base become the base of all that descends from them.
    """
    own = fingerprint_of(folder)
    write_json(
        Path(folder) / METADATA,
        {
            "schema": SCHEMA,
            "model": record.rope.model,
            "weights": record.weights,
            "rope_theta": record.rope.theta,
            "rotary_dim": record.rope.rotary_dim,
            "original_window": record.rope.original_window,
            "base_fingerprint": own if record.weights == BASE else record.rope.fingerprint,
            "fingerprint": own,
            "source": record.source,
            "changes": record.changes,
        },
    )


def tuned_factors(folder: Path) -> RescaleFactors | None:
    """The factors that a checkpoint was fine-tuned with; None for base weights."""
    record, path = read_record(folder), Path(folder) / TUNED
    if record.weights == BASE:
        return None
    return read_factors(path, record.rope)


def import_model(
    source: FolderModel | HubModel | GgufModel, name: str, original_window: int, folder: Path
) -> ModelRecord:
    """Bring a checkpoint in as `folder`, checked to be one whose RoPE can be rescaled.

    Files of a local folder are hard-linked where the file system allows. Raises UserError if it is
    missing, holds no safetensors, has no RoPE, is already rescaled, or was trained for another
    window than the configuration says.
    """
    with replacing(folder) as draft:
        draft.mkdir()
        match source:
            case FolderModel(path=path):
                _take_over(_existing_folder(Path(path)), draft)
            case HubModel(name=repository, revision=revision):
                _take_over(_existing_folder(_download(repository, revision)), draft)
            case GgufModel(path=path):
                _dequantise(Path(path), draft)
        config = read_json(draft / "config.json")
        changes = _open_sliding_window(draft, config)
        rope = rope_of_config(complete_config(draft), name)
        if rope.original_window != original_window:
            raise UserError(
                f"model {name!r}: original_window is {original_window} in the configuration, but"
                f" its max_position_embeddings is {rope.original_window}: set the window that it"
                " was pre-trained for"
            )
        origin = source.model_dump(exclude_none=True)
        _write_record(draft, ModelRecord(rope, BASE, UNKNOWN, origin, changes))
    return read_record(folder)


def complete_config(folder: Path) -> dict:
    """A checkpoint's config.json with what transformers fills in, such as LLaMA's theta."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    path = Path(folder) / "config.json"
    try:
        return read_json(path) | AutoConfig.from_pretrained(folder).to_dict()
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        first = " ".join((str(error).strip() or type(error).__name__).split())
        raise UserError(
            f"the config.json of the checkpoint: transformers cannot use it ({first[:300]})"
        ) from error


def rope_of_config(config: dict, name: str, fingerprint: str = UNKNOWN) -> Rope:
    """The RoPE of a Hugging Face config.json, in transformers' old or new schema.

    Raises UserError if the model has none, or one that is already rescaled.
    """
    kind = config.get("model_type", "unknown")
    block = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(block, dict):
        raise UserError(f"model {name!r}: rope_parameters = {block!r} must be an object")
    theta = block.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        raise UserError(
            f"model {name!r} ({kind}) has no rotary position embedding: its config.json has no"
            " rope_theta. LongRoPE extends RoPE models such as Llama, Mistral, Qwen or Phi"
        )
    if "attention_chunk_size" in config or any(isinstance(value, dict) for value in block.values()):
        raise UserError(f"model {name!r} ({kind}) has several RoPEs by layer: not supported")
    type_ = block.get("rope_type", block.get("type", "default"))
    if type_ != "default":
        raise UserError(
            f"model {name!r} is already rescaled (rope_type {type_!r}): start from the model it"
            " was made from, or remove that block if the weights were never tuned with it"
        )
    heads = config.get("num_attention_heads")
    head = config.get("head_dim") or config["hidden_size"] // heads
    share = block.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return Rope(
        model=name,
        theta=float(theta),
        rotary_dim=int(head * share),
        original_window=config["max_position_embeddings"],
        fingerprint=fingerprint,
    )


def fingerprint_of(folder: Path) -> str:
    """A short hash of the weights in a folder."""
    return sha256_of(*sorted(Path(folder).glob("*.safetensors")))[:16]


def load_tokenizer(folder: Path):
    """The tokenizer of a checkpoint."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no usable tokenizer ({error})") from error


def device():
    """Where models run: the first GPU, or the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, *, for_training: bool = False):
    """The causal language model of a checkpoint, on the device, in evaluation mode.

    In the precision that the configuration gave it: by itself float32 on a CPU, bfloat16 on a GPU.
    For training always float32 (autocast lowers the activations).
    """
    import torch
    from transformers import AutoModelForCausalLM

    _quiet()
    where = device()
    precision = "float32" if for_training else read_record(folder).precision
    if precision == "auto":
        precision = "float32" if where.type == "cpu" else "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, precision), attn_implementation="sdpa"
    )
    _check_head(model, folder)
    return model.to(where).eval()


def stored_dtype(folder: Path) -> str:
    """The type in which a checkpoint's weights are stored, such as `bfloat16`."""
    config = read_json(Path(folder) / "config.json")
    return config.get("dtype") or config.get("torch_dtype") or "float32"


def save_model(
    model,
    tokenizer,
    folder: Path,
    record: ModelRecord,
    dtype: str,
    factors: RescaleFactors | None = None,
) -> None:
    """Save a checkpoint, its record and the factors it was tuned with; converts `model` in place.

    `dtype` as in config.json, such as `bfloat16`.
    """
    import torch

    _quiet()
    with replacing(folder) as draft:
        draft.mkdir()
        model.to("cpu", getattr(torch, dtype)).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        if factors is not None:
            write_factors(draft / TUNED, factors)
        _write_record(draft, record)


def _check_head(model, folder: Path) -> None:
    for key in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(model.config, key, None) not in (None, 1, 1.0):
            raise UserError(f"{folder}: {key} in config.json changes the logits: not supported")


def _quiet() -> None:
    """No bars of transformers for loading and saving: they hide what the stage says."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _existing_folder(path: Path) -> Path:
    """The folder, if it holds a whole checkpoint; UserError names what it lacks."""
    if not (path / "config.json").exists():
        raise UserError(f"{path}: no checkpoint there (no config.json)")
    if not any(path.glob("*.safetensors")):
        raise UserError(f"{path}: no *.safetensors; convert the weights with save_pretrained")
    index = path / "model.safetensors.index.json"
    needed = set(read_json(index).get("weight_map", {}).values()) if index.exists() else set()
    if missing := sorted(name for name in needed if not (path / name).exists()):
        raise UserError(f"{path}: {missing[0]} is missing, which {index.name} names")
    return path


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = list(CARRIED)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"the hub model {repository!r} (revision {revision or 'main'}) cannot be fetched:"
            f" {first}. Check name and network, accept its licence, or name a local folder"
        ) from error


def _take_over(origin: Path, folder: Path) -> None:
    for file in {file for pattern in CARRIED for file in origin.glob(pattern)}:
        target = folder / file.name
        if target.suffix == ".safetensors":
            with contextlib.suppress(OSError):  # another file system
                os.link(file.resolve(), target)
        if not target.exists():
            shutil.copyfile(file, target)


def _dequantise(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _quiet()
    if not path.is_file():
        raise UserError(f"{path}: no such GGUF file")
    if scaling := _gguf_scaling(path):
        raise UserError(
            f"{path} is already rescaled ({scaling}), which transformers would drop: start from"
            " the checkpoint in safetensors"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a GGUF file that transformers can read ({error})") from error
    # save_pretrained refuses a model that remembers being quantised: fill a fresh one.
    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if "quantization" not in key}
    )
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _gguf_scaling(path: Path) -> str:
    """What rescales the RoPE of a GGUF file; empty if nothing does, or it cannot be read."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError):
        return ""  # transformers says what is wrong with it
    for name, field in reader.fields.items():
        if name.endswith(".rope.scaling.type") and field.contents() != "none":
            return f"{name} = {field.contents()}"
    return next((tensor.name for tensor in reader.tensors if "rope_f" in tensor.name), "")


def _open_sliding_window(folder: Path, config: dict) -> dict:
    """A sliding window would hide what a long window adds: switch it off, and note it."""
    if not config.get("sliding_window"):
        return {}
    opened = {"sliding_window": None}
    if "use_sliding_window" in config:
        opened["use_sliding_window"] = False
    if layers := config.get("layer_types"):
        opened["layer_types"] = ["full_attention"] * len(layers)
    write_json(folder / "config.json", config | opened)
    return {key: {"was": config[key], "is": value} for key, value in opened.items()}
