"""
How large a model is, from what is on disk or known of it: all that its cost depends on.

A decoder like Llama: grouped-query attention, and an MLP that is gated or not. Biases and norms of
queries and keys are left out of the counts (in models of billions less than a thousandth). Weights
are never read: a folder's config.json, a GGUF's header, the hub's cache, or the table that the
project carries is enough.
"""

import csv
from dataclasses import dataclass, fields
from pathlib import Path

from longrope.audit.gguf_file import open_gguf
from longrope.audit.values import is_whole
from longrope.config import ModelSettings
from longrope.errors import UserError
from longrope.files import read_json
from longrope.project import home
from longrope.windows import LONGEST

RESOURCES = home() / "resources"
SIZES = (  # keys of config.json that count something
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "vocab_size",
)  # fmt: skip
KNOWN = RESOURCES / "models" / "architectures.csv"
GATED, PLAIN = 3, 2  # matrices of an MLP
PLAIN_MLP = ("gpt_neox", "phi")  # model_type of those whose MLP has no gate
TIED = ("gemma",)  # and of those whose embedding is the head where config.json does not say


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool  # embedding and head are one matrix
    mlp_matrices: int = GATED  # of an MLP in a layer

    @property
    def body(self) -> int:
        """Weights that every token is multiplied with, in all layers."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * attention + self.mlp

    @property
    def mlp(self) -> int:
        """Those of them that are in MLPs."""
        return self.layers * self.mlp_matrices * self.hidden * self.intermediate

    @property
    def head(self) -> int:
        """Weights of the head."""
        return self.hidden * self.vocabulary

    @property
    def norms(self) -> int:
        """Weights of the norms."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        """All weights, embedding and norms included."""
        return self.body + self.norms + self.head * (1 if self.tied else 2)


def architecture_of(name: str, settings: ModelSettings) -> Architecture:
    """The shape of a configured model; UserError that says what to do where it is not known."""
    source = settings.source
    match source.kind:
        case "pretrain":
            made = source.architecture
            return Architecture(
                layers=made.layers,
                hidden=made.hidden_size,
                heads=made.heads,
                kv_heads=made.heads,
                head_size=made.hidden_size // made.heads,
                intermediate=made.intermediate_size,
                vocabulary=made.vocabulary,
                tied=True,
            )
        case "folder":
            path = Path(source.path) / "config.json"
            if not path.exists():
                raise UserError(f"models.{name}: {path} is not there, so its size is not known")
            return of_config(read_json(path), str(path))
        case "gguf":
            return _of_gguf(name, Path(source.path))
        case "hub":
            return _of_hub(name, source.name, source.revision)


def stored_in_bfloat16(settings: ModelSettings) -> bool:
    """Whether a configured model's weights are known to be stored in bfloat16."""
    source = settings.source
    match source.kind:
        case "folder":
            return _dtype(read_json(Path(source.path) / "config.json")) == "bfloat16"
        case "hub":
            if cached := _in_cache(source.name, source.revision):
                return _dtype(read_json(cached)) == "bfloat16"
            rows = {row["name"]: row["stored"] for row in _carried()}
            return rows.get(source.name) == "bfloat16"
    return True  # as what is pre-trained here is written, and what comes from a GGUF


def _dtype(config: dict) -> str | None:
    return config.get("dtype") or config.get("torch_dtype")


def of_config(config: dict, place: str) -> Architecture:
    """The shape that a config.json says; UserError if it lacks a part of it."""
    config = config.get("text_config", config)
    if not isinstance(config, dict):
        raise UserError(f"{place}: text_config = {config!r}: must be an object")
    kind = config.get("model_type")
    for key in SIZES:
        value = config.get(key, 1)  # one that is missing is named below, if it is needed
        if value is not None and not (is_whole(value) and 0 < value <= LONGEST):
            raise UserError(f"{place}: {key} = {value!r}: must be a whole number, 1 or more")
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        return Architecture(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or hidden // heads,
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", kind in TIED)),
            mlp_matrices=PLAIN if kind in PLAIN_MLP else GATED,
        )
    except KeyError as error:
        raise UserError(
            f"{place}: no key {error}; a plan needs the shape of a Llama-like model"
        ) from None


def _of_gguf(name: str, path: Path) -> Architecture:
    if not path.is_file():
        raise UserError(f"models.{name}: {path} is not there, so its size is not known")
    reader = open_gguf(path)

    def text(key: str):
        if key not in reader.fields:
            raise UserError(f"models.{name}: {path} has no key {key}, so its size is not known")
        return reader.fields[key].contents()

    kind = text("general.architecture")

    def read(key: str, default: int | None = None) -> int:
        if default is not None and f"{kind}.{key}" not in reader.fields:
            return default
        value = text(f"{kind}.{key}")
        if not (is_whole(value) and 0 < value <= LONGEST):
            raise UserError(f"{path}: {kind}.{key} = {value!r}: a plan needs one number, 1 or more")
        return value

    hidden, heads = read("embedding_length"), read("attention.head_count")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" not in tensors:
        raise UserError(f"models.{name}: {path} has no token_embd.weight, so its size is not known")
    return Architecture(
        layers=read("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=read("attention.head_count_kv", heads),
        head_size=read("attention.key_length", hidden // heads),
        intermediate=read("feed_forward_length"),
        vocabulary=int(tensors["token_embd.weight"].n_elements) // hidden,
        tied="output.weight" not in tensors,
    )


def _of_hub(name: str, repository: str, revision: str | None) -> Architecture:
    """From the hub's cache on this machine, else from the carried table."""
    if cached := _in_cache(repository, revision):
        return of_config(read_json(cached), f"{repository} in the hub's cache")
    known = known_architectures()
    if repository not in known:
        raise UserError(
            f"models.{name}: the size of {repository!r} is not known here: fetch its config.json"
            f" (`hf download {repository} config.json`), or add a line to {KNOWN.name}, which has"
            f" {', '.join(known)}"
        )
    return known[repository]


def _in_cache(repository: str, revision: str | None) -> str | None:
    """The path of its config.json in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    return cached if isinstance(cached, str) else None


def known_architectures() -> dict[str, Architecture]:
    """Hub name -> shape, of the models in the carried table."""
    other = ("tied", "mlp_matrices")  # all of them are gated
    sizes = [field.name for field in fields(Architecture) if field.name not in other]
    return {
        row["name"]: Architecture(
            **{size: int(row[size]) for size in sizes}, tied=row["tied"] == "yes"
        )
        for row in _carried()
    }


def _carried() -> list[dict[str, str]]:
    """The lines of the carried table; `stored` is the type of the weights, where it is known."""
    if not KNOWN.exists():
        raise UserError(f"{KNOWN} is missing: run from a clone of the repository")
    with KNOWN.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
