"""
What an export is made of, however it was named: the checkpoint is one of the workflow or any other,
the factors are in a file or published.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longrope.catalogue import Entry, file_or_entry
from longrope.config import FolderModel, GgufModel
from longrope.drafts import scratch
from longrope.errors import UserError
from longrope.extended import Tiers, read_tiers, write_extended
from longrope.factors import check_same_model
from longrope.models.anybody import rope_of_folder
from longrope.models.checkpoint import METADATA
from longrope.models.import_model import import_model


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint with its record, the file of its factors, and what was published of both."""

    model: Path
    factors: Path
    measured: tuple[dict, ...] = ()  # evaluations, as an entry keeps them


@contextlib.contextmanager
def source_of(model: Path, factors: Path, near: Path) -> Iterator[Source]:
    """What was named, for the time of the block.

    Published factors are written out, and a checkpoint that is not of the workflow is brought in as
    the model that they are for, in a folder beside `near`, whose disk weights can be linked to.
    Raises UserError if there is no such thing, if the factors are for other weights, and for what
    cannot be extended (`import_model`).
    """
    found = file_or_entry(factors)
    published = found if isinstance(found, Entry) else None
    tiers = published.tiers if published else read_tiers(found)
    brought = _to_bring_in(model, tiers, published)
    if brought is None and published is None:
        yield Source(model, found)
        return
    with scratch(near) as folder:
        if brought is not None:
            model = folder / "model"
            import_model(brought, tiers.rope.model, tiers.rope.original_window, model)
        if published:
            write_extended(folder / "factors", tiers, model)
            found = folder / "factors/extended.json"
        yield Source(model, found, published.measured if published else ())


def _to_bring_in(
    model: Path, tiers: Tiers, published: Entry | None
) -> FolderModel | GgufModel | None:
    """The source of a checkpoint that is not of the workflow; None for one that is."""
    if not model.exists():
        raise UserError(f"{model}: no such folder or file")
    if model.suffix == ".gguf":
        stored = published.source.get("precision", "auto") if published else "auto"
        return GgufModel(kind="gguf", path=str(model), precision=stored)
    if (model / METADATA).exists():
        return None
    if not (model / "config.json").exists():
        raise UserError(f"{model}: no checkpoint: name a folder with a config.json, or a GGUF file")
    if any(model.glob("*.safetensors")):  # others have no fingerprint before they are converted
        check_same_model(tiers.rope, rope_of_folder(model)[0])
    return FolderModel(kind="folder", path=str(model))
