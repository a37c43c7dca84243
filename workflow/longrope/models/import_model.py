"""
Bringing a checkpoint in: from a folder, the hub or a GGUF file, checked to be one that can be
extended, or measured with the RoPE that it comes with.

Everything that can be wrong with a checkpoint is said here, before any long work. The architecture
is checked on a model without weights; these are read once, to see that all are finite numbers.
"""

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path

from longrope.audit.gguf_file import open_gguf
from longrope.config import FolderModel, GgufModel, HubModel, RopeOrigin
from longrope.config.base import BASE
from longrope.errors import UserError, one_line
from longrope.factors import Rope
from longrope.files import read_json, replacing, write_json
from longrope.models.architectures import (
    PLAIN,
    UNKNOWN,
    body_of,
    check_head,
    complete_config,
    rope_block,
    rope_of_config,
    rope_type_of,
)
from longrope.models.checkpoint import (
    CARD,
    LICENCES,
    ModelRecord,
    load_tokenizer,
    quiet,
    read_record,
    write_record,
)
from longrope.models.loading import check_fit, load_causal, readable
from longrope.models.tensors import check_finite, check_whole, is_beside
from longrope.models.window import check_window

FROM_WINDOW = ("llama3", "longrope", "yarn")  # rope_types that depend on the window before
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


def import_model(
    source: FolderModel | HubModel | GgufModel,
    name: str,
    original_window: int,
    folder: Path,
    rope: RopeOrigin = "plain",
) -> ModelRecord:
    """Bring a checkpoint in as `folder`, checked to be one that can be extended.

    Files of a local folder are hard-linked where the file system allows. Raises UserError if it is
    missing, holds no weights, has no RoPE, is already rescaled, or was trained for another
    window than the configuration says. With `rope="own"` it keeps the RoPE and the sliding window
    that it comes with, and `original_window` is the one that it is said to have.
    """
    with replacing(folder) as draft:
        draft.mkdir()
        match source:
            case FolderModel(path=path):
                place = existing_folder(Path(path))
                _take_over(place, draft)
            case HubModel(name=repository, revision=revision):
                place = existing_folder(_download(repository, revision))
                _take_over(place, draft)
            case GgufModel(path=path):
                place = Path(path)
                _dequantise(place, draft)
        changes = _open_sliding_window(draft) if rope == "plain" else {}
        config = complete_config(draft)
        found = rope_of_config(config, name)
        check_head(config, name)
        if rope == "plain":
            sliding = changes.get("sliding_window", {}).get("was")
            check_plain(config, found, original_window, sliding)
        else:
            _check_scaling(read_json(draft / "config.json"), found, original_window)
        found = dataclasses.replace(found, original_window=original_window)
        check_rotary(draft, found)
        check_contents(draft, place)
        files = sorted(place.glob("*.safetensors")) or sorted(draft.glob("*.safetensors"))
        check_finite(files, "quantization_config" in config)
        origin = source.model_dump(exclude_none=True)
        write_record(draft, ModelRecord(found, BASE, UNKNOWN, origin, changes))
    return read_record(folder)


def check_plain(config: dict, found: Rope, original_window: int, sliding: int | None) -> None:
    """Raise UserError unless a RoPE was never rescaled and is of the configured window."""
    if (type_ := rope_type_of(config)) != PLAIN:
        raise UserError(
            f"model {found.model!r} is already rescaled (rope_type {type_!r}): start from the model"
            " it was made from, remove that block if the weights were never tuned with it, or say"
            " `rope: own` to measure it as it is"
        )
    check_window(found.model, original_window, found.original_window, sliding)


def check_contents(folder: Path, place: Path) -> None:
    """Raise UserError unless weights and tokenizer in a folder are those of its config.json; no
    weight is read. `place` is what messages call the folder."""
    quiet()
    check_whole(sorted(place.glob("*.safetensors")))
    check_fit(folder, place)
    if not any(folder.glob("tokenizer*")):  # the first stage that needs one says so
        return
    tokenizer = load_tokenizer(folder, place)
    rows = read_json(folder / "config.json").get("vocab_size")
    if isinstance(rows, int) and tokenizer.vocab_size > rows:
        raise UserError(
            f"{place}: its tokenizer has {tokenizer.vocab_size:,} tokens, its config.json a"
            f" vocab_size of {rows:,}: they are not of one checkpoint; download or save it again"
        )


def _check_scaling(config: dict, found: Rope, claimed: int) -> None:
    """Raise UserError unless a config.json, as published, says how the RoPE was rescaled."""
    key, type_ = "original_max_position_embeddings", rope_type_of(config)
    if type_ in FROM_WINDOW and not (config.get(key) or rope_block(config).get(key)):
        raise UserError(
            f"model {found.model!r}: its rope_type {type_!r} needs {key} in config.json, for which"
            " transformers would silently take max_position_embeddings: add the window that it was"
            " made from"
        )
    if type_ == PLAIN and claimed > found.original_window:
        raise UserError(
            f"model {found.model!r}: original_window is {claimed} in the configuration, but its"
            f" config.json rescales nothing and has max_position_embeddings"
            f" {found.original_window}: add the rope_scaling that it was tuned with, which some"
            " are published without"
        )


def check_rotary(folder: Path, rope: Rope) -> None:
    """Raise UserError unless the rotary embedding of a checkpoint is one that can be replaced."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from longrope.rope import install

    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation="sdpa", trust_remote_code=False
            )
        body = body_of(model)
        if rotary := getattr(body, "rotary_emb", None):
            body.rotary_emb = type(rotary)(config=model.config)  # with numbers
    except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        raise UserError(
            f"model {rope.model!r}: transformers cannot build it ({type(error).__name__}:"
            f" {one_line(error)})"
        ) from error
    install(model, rope, one_call=True)


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


def _download(repository: str, revision: str | None) -> Path:
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


def _take_over(origin: Path, folder: Path) -> None:
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


def _dequantise(path: Path, folder: Path) -> None:
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


def _open_sliding_window(folder: Path) -> dict:
    """A sliding window would hide what a long window adds: switch it off, and note it."""
    config = read_json(folder / "config.json")
    if not config.get("sliding_window"):
        return {}
    opened = {"sliding_window": None}
    if "use_sliding_window" in config:
        opened["use_sliding_window"] = False
    if layers := config.get("layer_types"):
        opened["layer_types"] = ["full_attention"] * len(layers)
    write_json(folder / "config.json", config | opened)
    return {key: {"was": config[key], "is": value} for key, value in opened.items()}
