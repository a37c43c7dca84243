"""
Bringing a checkpoint in: from a folder, the hub or a GGUF file, checked to be one that can be
extended, or measured with the RoPE that it comes with.

Everything that can be wrong with a checkpoint is said here, before any long work. The architecture
is checked on a model without weights; these are read once, to see that all are finite numbers.
"""

import dataclasses
from pathlib import Path

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
    TUNED,
    ModelRecord,
    load_tokenizer,
    quiet,
    read_record,
    write_record,
)
from longrope.models.loading import check_fit
from longrope.models.origin import dequantise, download, existing_folder, take_over
from longrope.models.tensors import check_finite, check_whole
from longrope.models.window import check_window

FROM_WINDOW = ("llama3", "longrope", "yarn")  # rope_types that depend on the window before


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
                take_over(place, draft)
            case HubModel(name=repository, revision=revision):
                place = existing_folder(download(repository, revision))
                take_over(place, draft)
            case GgufModel(path=path):
                place = Path(path)
                dequantise(place, draft)
        check_untuned(place)
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


def check_untuned(place: Path) -> None:
    """Raise UserError if a checkpoint was tuned here: it is whole with its factors alone."""
    if (place / TUNED).exists():
        raise UserError(
            f"{place}: weights that this project tuned with the factors in {TUNED}, which no other"
            " study would apply: start from the model that they were tuned from"
            " (results/MODEL/base/model), or add a tuning or a window to that model's study"
        )


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
