"""
Using an extended model: loading one ready for any length, and putting factors into a loaded model.

Factors come as a file, as an object, or as the name of a published entry. They are for certain
weights: a model that is known not to descend from those is refused, and `other_weights=True` says
that it is meant (your own tuning of the same base, saved elsewhere).
"""

import dataclasses
import warnings
from pathlib import Path

from longrope.catalogue import entry, names
from longrope.errors import UserError
from longrope.extended import ExtendedModel, Tiers, make_tiers, read_tiers, with_original
from longrope.factors import RescaleFactors, Rope, check_same_model
from longrope.models import METADATA, fingerprint_of, read_record


def load(path, factors=None, *, other_weights: bool = False):
    """A model and its tokenizer, ready for any length up to its longest window.

    `path` is a folder of results (`results/MODEL/WEIGHTS`, with model/ and extended/), or a
    checkpoint with `factors`: a file (factors.json, extended.json), `RescaleFactors`, `Tiers`, or
    the name of a published entry. Weights that were never tuned keep the original RoPE within
    their window. The model is an `ExtendedModel`: its `generate` takes the
    factors for prompt and new tokens together; `pin(tokens)` sets those of a length before a call
    of `model.model`.
    """
    from longrope.models import load_tokenizer

    folder, found = _places(Path(path), factors)
    rope, weights = rope_of_folder(folder)
    tiers = tiers_from(found, rope, weights, other_weights=other_weights)
    model = _load(folder)
    if weights == rope.fingerprint:
        tiers = with_original(tiers)
    return ExtendedModel(model, tiers), load_tokenizer(folder)


def apply(model, factors, *, other_weights: bool = False) -> ExtendedModel:
    """Put factors into a transformers model; until `pin`, those of the longest window are used.

    The model is changed in place: its `rotary_emb` is replaced, calls of it turn by the factors.
    Where it was loaded from a folder that still exists, its weights are checked.
    """
    from longrope.architectures import rope_of_config

    folder = Path(getattr(model, "name_or_path", "") or "")
    if (folder / "config.json").exists() and not other_weights:
        rope, weights = rope_of_folder(folder)
    else:
        rope, weights = rope_of_config(model.config.to_dict(), type(model).__name__), None
        other_weights = True  # nothing is known of them
    able = ExtendedModel(model, tiers_from(factors, rope, weights, other_weights=other_weights))
    able.pin(able.tiers.longest.window)
    return able


def tiers_from(
    factors, rope: Rope, weights: str | None = None, *, other_weights: bool = False
) -> Tiers:
    """Tiers for a model, from whatever names them; UserError if they are for other weights."""
    if isinstance(factors, RescaleFactors):
        tiers = make_tiers([factors])
    elif isinstance(factors, Tiers):
        tiers = factors
    elif str(factors) in names():
        published = entry(str(factors))
        tiers = published.tiers
        if weights not in (None, published.weights_fingerprint):
            warnings.warn(
                f"{published.name}: measured on weights {published.weights_fingerprint}, these are"
                f" {weights}: its perplexities are not theirs",
                stacklevel=3,
            )
    elif Path(factors).is_file():
        tiers = read_tiers(Path(factors))
    else:
        raise UserError(
            f"factors {str(factors)!r}: neither a file nor a published entry; published are"
            f" {', '.join(names())}"
        )
    if other_weights:  # taken for the base of these very weights
        tiers = make_tiers([_renamed(each, fingerprint=rope.fingerprint) for each in tiers.factors])
    try:
        check_same_model(tiers.rope, rope)
    except UserError as error:
        hint = " (or say other_weights, if these weights descend from those)"
        raise UserError(f"{error}{hint if 'fingerprint' in str(error) else ''}") from None
    return make_tiers([_renamed(each, model=rope.model) for each in tiers.factors])


def _renamed(factors: RescaleFactors, **changes) -> RescaleFactors:
    """The same factors, of a model by another name or of other weights."""
    return dataclasses.replace(factors, rope=dataclasses.replace(factors.rope, **changes))


def rope_of_folder(folder: Path) -> tuple[Rope, str]:
    """The RoPE of a checkpoint, and the hash of its weights; of any folder, imported or not."""
    from longrope.architectures import complete_config, rope_block, rope_of_config, rope_type_of

    if (folder / METADATA).exists():
        record = read_record(folder)
        return record.rope, record.fingerprint
    config = complete_config(folder)
    if rope_type_of(config) != "default":
        raise UserError(
            f"{folder}: its RoPE is rescaled already ({rope_block(config).get('rope_type')}), so it"
            " takes no factors: load it with transformers"
        )
    weights = fingerprint_of(folder)
    return rope_of_config(config, folder.resolve().name, weights), weights


def _places(path: Path, factors) -> tuple[Path, object]:
    """The checkpoint, and where its factors are."""
    if (path / "model" / "config.json").exists():
        extended = path / "extended" / "extended.json"
        if factors is None and not extended.exists():
            raise UserError(f"{path}: no extended/extended.json there: name factors")
        return path / "model", extended if factors is None else factors
    if not (path / "config.json").exists():
        raise UserError(
            f"{path}: neither a folder of results (with model/ and extended/) nor a checkpoint"
            " (with config.json)"
        )
    if factors is None:
        beside = path.parent / "extended" / "extended.json"
        if path.name != "model" or not beside.exists():
            raise UserError(f"{path}: a checkpoint alone has no factors: name a file or an entry")
        return path, beside
    return path, factors


def _load(folder: Path):
    """The model of a checkpoint, whether this project imported it or not."""
    import torch
    from transformers import AutoModelForCausalLM

    from longrope.models import device, load_model, quiet
    from longrope.pieces import prepare

    if (folder / METADATA).exists():
        return load_model(folder)
    quiet()
    where = device()
    dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(where).eval()
    prepare(model)
    return model
