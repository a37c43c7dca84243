"""
Using an extended model: loading one ready for any length, and putting factors into a loaded model.

Factors come as a file, as an object, or as the name of a published entry. They are for certain
weights (`searched_on.py`): others are refused, and `other_weights=True` says that it is meant (your
own tuning of the same base, saved elsewhere). Only of a model in memory whose files are not found
nothing can be told: there a warning says so.
"""

import dataclasses
import types
import warnings
from pathlib import Path

from longrope.catalogue import Entry, file_or_entry
from longrope.errors import UserError
from longrope.extended import Tiers, make_tiers, read_tiers, with_original
from longrope.extended_model import ExtendedModel
from longrope.factors import RescaleFactors, Rope, check_same_model
from longrope.files import read_json
from longrope.models.anybody import check_takes_factors, load_any, rope_of_folder
from longrope.models.checkpoint import METADATA, tuned_factors
from longrope.searched_on import MEANT, check_searched_on


def load(path, factors=None, *, other_weights: bool = False):
    """A model and its tokenizer, ready for any length up to its longest window.

    `path` is a folder of results (`results/MODEL/WEIGHTS`, with model/ and extended/), or a
    checkpoint with `factors`: a file (factors.json, extended.json), `RescaleFactors`, `Tiers`, or
    the name of a published entry. Weights that were never tuned keep the original RoPE within
    their window. The model is an `ExtendedModel`: called, each row of a batch runs with the factors
    of its length, by its attention mask, and `generate` takes those for prompt and new tokens
    together. `pin(tokens)` sets those of a length before a call of `model.model`, which else has
    those of the longest window.
    """
    from longrope.models.checkpoint import load_tokenizer

    folder, found = _places(Path(path), factors)
    if isinstance(found, str | Path):  # before weights are read
        file_or_entry(found)
    rope, weights = rope_of_folder(folder)
    tiers = tiers_from(found, rope, weights, _tuned(folder), other_weights=other_weights)
    model = load_any(folder)
    if weights == rope.fingerprint:
        tiers = with_original(tiers)
    _warn_of_saving(model)
    return ExtendedModel(model, tiers), load_tokenizer(folder)


def apply(model, factors, *, other_weights: bool = False) -> ExtendedModel:
    """Put factors into a transformers model; until `pin`, those of the longest window are used.

    The model is changed in place: its `rotary_emb` is replaced, calls of it turn by the factors.
    What is returned runs each sequence with the factors of its length, as that of `load` does.
    Of a model that has factors already (an `ExtendedModel`, or what was made one) they are
    replaced; `remove` gives the model back as it was.
    Where the files that it was loaded from are still there (a folder, or the hub's cache), its
    weights are compared with them, and factors of other weights are refused.
    """
    from longrope.models.architectures import rope_of_config

    model = model.model if isinstance(model, ExtendedModel) else model
    folder = None if other_weights else _files_of(model)
    if folder is not None:
        _check_unchanged(model, folder)
        rope, weights = rope_of_folder(folder)
        tiers = tiers_from(factors, rope, weights, _tuned(folder))
        if weights == rope.fingerprint:
            tiers = with_original(tiers)
    else:
        if not other_weights:
            warnings.warn(
                f"the weights of this {type(model).__name__} cannot be checked, as no files of them"
                f" were found ({getattr(model, 'name_or_path', '') or 'no name'}): these factors"
                " are right for the weights that they were searched on alone;"
                f" {MEANT} says that they are",
                stacklevel=2,
            )
        rope = rope_of_config(model.config.to_dict(), type(model).__name__)
        tiers = tiers_from(factors, rope, other_weights=True)
    if (rotary := _rescaled(model)) is not None:  # these may be of other weights than those before
        rotary.rope = dataclasses.replace(
            rotary.rope, model=tiers.rope.model, fingerprint=tiers.rope.fingerprint
        )
    _warn_of_saving(model)
    return ExtendedModel(model, tiers)


def remove(model):
    """Take the factors out of a model: the transformers model, in place, as it was before `apply`.

    An `ExtendedModel` of it is of no use any more: what it pins is not in the model.
    """
    from longrope.models.architectures import body_of

    model = model.model if isinstance(model, ExtendedModel) else model
    if (rotary := _rescaled(model)) is None:
        raise UserError(f"this {type(model).__name__} has no factors of this project in it")
    body_of(model).rotary_emb = rotary.original
    vars(model).pop("save_pretrained", None)
    return model


def _rescaled(model):
    """What turns by factors in a model; None if it has none."""
    from longrope.models.architectures import body_of
    from longrope.rope import RescaledRotary

    rotary = getattr(body_of(model), "rotary_emb", None)
    return rotary if isinstance(rotary, RescaledRotary) else None


def tiers_from(
    factors,
    rope: Rope,
    weights: str | None = None,
    tuned: RescaleFactors | None = None,
    *,
    other_weights: bool = False,
) -> Tiers:
    """Tiers for a model, from whatever names them; UserError if they are for other weights.

    `weights` is the fingerprint of the model's, `tuned` what they were tuned with.
    """
    published = None
    if isinstance(factors, RescaleFactors):
        tiers = make_tiers([factors])
    elif isinstance(factors, Tiers):
        tiers = factors
    elif isinstance(found := file_or_entry(factors), Entry):
        published, tiers = found, found.tiers
    else:
        tiers = read_tiers(found)
    if other_weights:  # taken for the base of these very weights
        tiers = make_tiers([_renamed(each, fingerprint=rope.fingerprint) for each in tiers.factors])
    try:
        check_same_model(tiers.rope, rope)
    except UserError as error:
        hint = " (or say other_weights, if these weights descend from those)"
        raise UserError(f"{error}{hint if 'fingerprint' in str(error) else ''}") from None
    if published and not other_weights and weights not in (None, published.weights_fingerprint):
        raise UserError(
            f"{published.name} is for other weights: {published.weights_fingerprint}"
            f" ({published.weights}), these are {weights}: its perplexities would not be theirs;"
            f" search on these, or say {MEANT} if it is meant"
        )
    if weights is not None and not (other_weights or published):
        check_searched_on(tiers.factors, weights, rope.fingerprint, tuned)
    return make_tiers([_renamed(each, model=rope.model) for each in tiers.factors])


def _renamed(factors: RescaleFactors, **changes) -> RescaleFactors:
    """The same factors, of a model by another name or of other weights."""
    return dataclasses.replace(factors, rope=dataclasses.replace(factors.rope, **changes))


def _tuned(folder: Path) -> RescaleFactors | None:
    """What the weights in a folder were tuned with; None if they were not, or not here."""
    return tuned_factors(folder) if (folder / METADATA).exists() else None


def _files_of(model) -> Path | None:
    """Where the files of a model in memory are: its folder, or the hub's cache; None if neither."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = str(getattr(model, "name_or_path", "") or "")
    folder = Path(name)
    if not (name and (folder / "config.json").exists()):
        revision = getattr(model.config, "_commit_hash", None)
        try:
            found = try_to_load_from_cache(name, "config.json", revision=revision)
        except HFValidationError:  # no name of a repository
            return None
        if not isinstance(found, str):
            return None
        folder = Path(found).parent
    return folder if any(folder.glob("*.safetensors")) else None


def _warn_of_saving(model) -> None:
    """Let `save_pretrained` of one model say that the factors are not in what it writes."""
    kept = type(model).save_pretrained  # not that of an earlier call, which would say it twice

    def save_pretrained(self, *arguments, **options):
        warnings.warn(
            "what is saved has no factors: by itself it runs with the RoPE of the pre-training, in"
            " its window alone. `longrope export` writes a model with factors, for other tools",
            stacklevel=2,
        )
        return kept(self, *arguments, **options)

    model.save_pretrained = types.MethodType(save_pretrained, model)


def _check_unchanged(model, folder: Path) -> None:
    """Raise UserError if weights in memory differ from those in a folder.

    What is stored otherwise in memory (quantised, fused, on no device) is not compared.
    """
    import torch
    from safetensors import safe_open

    held = model.state_dict()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            for name in names:
                ours = held.get(name)
                if ours is None or ours.is_meta or not ours.is_floating_point():
                    continue
                stored = file.get_tensor(name).to(ours.dtype)
                if stored.shape == ours.shape and not torch.equal(stored, ours.cpu()):
                    raise UserError(
                        f"the weights in memory are not those of {folder} ({name} differs), so"
                        " factors searched on those are not for them: search on them, or say"
                        f" {MEANT} if it is meant"
                    )


def _places(path: Path, factors) -> tuple[Path, object]:
    """The checkpoint, and where its factors are."""
    if (path / "model" / "config.json").exists():
        extended = path / "extended" / "extended.json"
        if factors is None and not extended.exists():
            raise UserError(f"{path}: no extended/extended.json there: name factors")
        return path / "model", extended if factors is None else factors
    if not (path / "config.json").exists():
        if path.suffix == ".gguf":
            raise UserError(
                f"{path}: factors are not put on a GGUF file in memory: `longrope export --model"
                f" {path} --factors FACTORS --out FOLDER` makes a folder that generates, or a GGUF"
                " file with --form gguf"
            )
        raise UserError(
            f"{path}: neither a folder of results (with model/ and extended/) nor a checkpoint"
            " (with config.json)"
        )
    if factors is None:
        from longrope.models.architectures import complete_config

        beside = path.parent / "extended" / "extended.json"
        if path.name != "model" or not beside.exists():
            config = read_json(path / "config.json")  # which says it at once, without transformers
            scaled = config.get("rope_scaling")  # beside rope_parameters, transformers knows which
            check_takes_factors(path, complete_config(path) if scaled else config)
            raise UserError(
                f"{path}: a checkpoint alone has no factors: name a file, or a published entry"
                " (`longrope factors` lists them)"
            )
        return path, beside
    return path, factors
