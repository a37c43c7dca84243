"""
Checkpoints: reading one, saving one, and what this project notes beside it.

Every checkpoint under results/ is an ordinary Hugging Face folder (safetensors) plus
`longrope.json`: which pre-trained weights it descends from, how its RoPE is built, and the factors
that it was tuned with. Weights tuned here keep the fingerprint of their base, so that factors are
never put on another model unnoticed. Torch and transformers are imported where they are needed.
"""

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from longrope.config.base import BASE
from longrope.devices import gpu_of_this_process
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, read_factors, rope_of_record, write_factors
from longrope.files import read_json, replacing, sha256_of, write_checked
from longrope.first_calls import settle_kernels
from longrope.models.architectures import PACKAGES, body_of, check_kernel
from longrope.models.loading import load_causal, readable

METADATA = "longrope.json"
TUNED = "tuned_factors.json"  # in checkpoints that were tuned here
TRAINING = "training.json"  # in checkpoints that were pre-trained here
SCHEMA = 1  # of longrope.json
CARD = "README.md"  # of a checkpoint: read for the licence of a base, written for an export
LICENCES = ("LICEN[CS]E*", "COPYING*", "NOTICE*")  # what goes with weights wherever they go


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What `longrope.json` says of a checkpoint."""

    rope: Rope  # with the fingerprint of the base weights
    weights: str  # base, or the name of the tuning
    fingerprint: str  # hash of these very weights
    source: dict  # where the base weights come from
    changes: dict  # what was changed in the checkpoint's own config, such as sliding_window
    start: str | None = None  # the weights that these were tuned from; older records do not say

    def __post_init__(self) -> None:
        for name, kind in (
            ("weights", str),
            ("fingerprint", str),
            ("source", dict),
            ("changes", dict),
        ):
            if not isinstance(value := getattr(self, name), kind):
                what = "a text" if kind is str else "an object"
                raise UserError(f"{name} = {value!r}: must be {what}")
        if not isinstance(self.start, str | None):
            raise UserError(f"start = {self.start!r}: must be a text")

    @property
    def precision(self) -> str:
        """In which type it runs when it is not trained: float32, bfloat16, or auto."""
        return self.source.get("precision", "auto")

    @property
    def attention(self) -> str:
        """The kernel of its attention, as transformers names it."""
        return self.source.get("attention", "sdpa")

    @property
    def public_source(self) -> dict:
        """Where the base weights come from, for others to read: no folder of this machine."""
        source = {key: each for key, each in self.source.items() if key != "path"}
        path = self.source.get("path")
        return source | ({"file": Path(path).name} if path else {})

    def tuned_as(self, weights: str) -> "ModelRecord":
        """The record of weights that are tuned from these."""
        return dataclasses.replace(self, weights=weights, start=self.weights)


def read_record(folder: Path) -> ModelRecord:
    """The record beside a checkpoint; UserError if there is none."""
    path = Path(folder) / METADATA
    if not path.exists():
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder")
        raise UserError(
            f"{folder}: no {METADATA}; bring a checkpoint in with `longrope import-model` first"
        )
    record = read_json(path, _again(folder))
    try:
        if record["schema"] != SCHEMA:
            raise UserError(f"schema {record['schema']!r}, this version reads {SCHEMA}")
        return ModelRecord(
            rope_of_record(record),
            record["weights"],
            record["fingerprint"],
            record["source"],
            record["changes"],
            record.get("start"),
        )
    except KeyError as error:
        raise UserError(f"{path}: the key {error} is missing") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_record(folder: Path, record: ModelRecord) -> None:
    """Write `longrope.json` into a checkpoint, with the fingerprint of the weights there, and the
    hash of every other file that says how they are run.

    Weights that are called base become the base of all that descends from them.
    """
    own, beside = fingerprint_of(folder), [each for each in Path(folder).iterdir() if _says(each)]
    write_checked(
        Path(folder) / METADATA,
        {
            "schema": SCHEMA,
            "model": record.rope.model,
            "weights": record.weights,
            **({"start": record.start} if record.start else {}),
            "rope_theta": record.rope.theta,
            "rotary_dim": record.rope.rotary_dim,
            "original_window": record.rope.original_window,
            "base_fingerprint": own if record.weights == BASE else record.rope.fingerprint,
            "fingerprint": own,
            "source": record.source,
            "changes": record.changes,
            "files": {path.name: sha256_of(path) for path in sorted(beside)},
        },
    )


def _says(path: Path) -> bool:
    """Whether a file of a checkpoint is of its config or its tokenizer."""
    about = path.suffix in (".safetensors", ".md") or path.name == METADATA
    return path.is_file() and not about and not path.name.startswith(".")


def _again(folder: Path) -> str:
    return f"delete {folder} and run the workflow again"


def tuned_factors(folder: Path) -> RescaleFactors | None:
    """The factors that a checkpoint was fine-tuned with; None for base weights."""
    record, path = read_record(folder), Path(folder) / TUNED
    if record.weights == BASE:
        return None
    return read_factors(path, record.rope)


def fingerprint_of(folder: Path) -> str:
    """A short hash of the weights in a folder; UserError if there are none that it is made of."""
    if not (files := sorted(Path(folder).glob("*.safetensors"))):
        raise UserError(f"{folder}: no *.safetensors, whose hash says which weights these are")
    return sha256_of(*files)[:16]


def check_weights(folder: Path, record: ModelRecord) -> None:
    """Raise UserError unless the weights in a folder are, to the bit, those that were saved."""
    if not any(Path(folder).glob("*.safetensors")):
        raise UserError(f"{folder}: damaged weights: no *.safetensors; {_again(folder)}")
    if (found := fingerprint_of(folder)) != record.fingerprint:
        raise UserError(
            f"{folder}: damaged weights: their sha256 begins with {found}, not with"
            f" {record.fingerprint}, as when they were saved; {_again(folder)}"
        )


def check_files(folder: Path) -> None:
    """Raise UserError unless config and tokenizer of a checkpoint are, to the bit, those that were
    saved. One that is not of this project, or of an older version of it, is not checked."""
    if not (path := Path(folder) / METADATA).exists():
        return
    for name, sum_ in read_json(path, _again(folder)).get("files", {}).items():
        if not (path := Path(folder) / name).exists() or sha256_of(path) != sum_:
            raise UserError(
                f"{path}: missing or damaged, its sha256 is not that with which it was saved;"
                f" {_again(folder)}"
            )


def load_tokenizer(folder: Path, place: Path | None = None):
    """The tokenizer of a checkpoint; `place` is what messages call the folder."""
    from transformers import AutoTokenizer

    check_files(folder)
    return readable(
        place or folder,
        "no usable tokenizer",
        lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
    )


def device():
    """Where models run: the GPU that this process leased, or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    where = torch.device("cuda", gpu_of_this_process())
    torch.cuda.set_device(where)  # what says `cuda` means this one
    return where


def precision_of(record: ModelRecord) -> str:
    """In which type a checkpoint runs here when it is not trained: `float32` or `bfloat16`."""
    if record.precision != "auto":
        return record.precision
    return "float32" if device().type == "cpu" else "bfloat16"


def load_model(folder: Path, *, for_training: bool = False, on_cpu: bool = False):
    """The causal language model of a checkpoint, on the device, in evaluation mode.

    In the precision that the configuration gave it: by itself float32 on a CPU, bfloat16 on a GPU.
    For training always float32 (autocast lowers the activations). `on_cpu`: there, for a device
    that does not hold all of it. UserError if the weights are not those that its record tells of.
    """
    import torch

    from longrope.pieces import prepare

    quiet()
    where = device()
    record = read_record(folder)
    check_files(folder)
    check_weights(folder, record)
    precision = "float32" if for_training else precision_of(record)
    check_kernel(record.attention, where.type, None if for_training else precision)
    model = load_causal(
        folder,
        dtype=getattr(torch, precision),
        attn_implementation="sdpa" if on_cpu else record.attention,
    )
    model = model.to("cpu" if on_cpu else where).eval()
    _check_head(model, folder)
    if on_cpu:
        model.set_attn_implementation(record.attention)
    _warn_of_scores(model, where.type)
    prepare(model)
    return model


def empty_model(folder: Path):
    """The same for training, its weights without values and on no device: they come from another
    rank, or from a tuning."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    from longrope.pieces import prepare

    settle_kernels()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.float32,
            attn_implementation=read_record(folder).attention,
            trust_remote_code=False,
        )
    model.tie_weights()
    model.eval()
    prepare(model)
    return model


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
    base: Path | None = None,
    training: dict | None = None,
) -> None:
    """Save a checkpoint, its record and the factors it was tuned with; converts `model` in place.

    `dtype` as in config.json, such as `bfloat16`; `base` is the checkpoint that it was tuned from,
    whose licence goes along; `training` is written beside the weights.
    """
    import torch

    quiet()
    with replacing(folder) as draft:
        draft.mkdir()
        model.to("cpu", getattr(torch, dtype)).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        if factors is not None:
            write_factors(draft / TUNED, factors)
        for pattern in LICENCES if base else ():
            for file in Path(base).glob(pattern):
                shutil.copyfile(file, draft / file.name)
        if training is not None:
            write_checked(draft / TRAINING, training)
        write_record(draft, record)


def _check_head(model, folder: Path) -> None:
    """Raise UserError unless a model's logits are what its head makes of its body."""
    import torch

    tokens_BT = torch.arange(4, device=model.device)[None]
    # Kernels without float32 get what autocast gives them in a training.
    lower = model.config._attn_implementation in PACKAGES and model.dtype == torch.float32
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=lower):
        hidden_BTD = body_of(model)(input_ids=tokens_BT, use_cache=False).last_hidden_state
        found = model.get_output_embeddings()(hidden_BTD)
        expected = model(input_ids=tokens_BT, use_cache=False).logits
    if not torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-3):
        raise UserError(
            f"{folder}: {type(model).__name__} changes its logits after the head, which losses"
            " here do not: not supported"
        )


def _warn_of_scores(model, device_type: str) -> None:
    """Say where torch's attention would keep T x T numbers: its kernels that do not are for half
    precision, or for as many key heads as query heads."""
    heads = model.config.num_attention_heads
    grouped = getattr(model.config, "num_key_value_heads", heads) != heads
    if device_type == "cuda" and model.dtype.itemsize == 4 and grouped:
        print(
            "float32 with grouped key heads on a GPU: attention keeps T x T scores where it is not"
            " lowered; set precision: bfloat16 for long windows",
            file=sys.stderr,
        )


def quiet() -> None:
    """No bars of transformers for loading and saving: they hide what the stage says."""
    from transformers.utils import logging

    logging.disable_progress_bar()
