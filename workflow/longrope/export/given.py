"""
What an export is made of, however it was named: the checkpoint is one of the workflow or any other,
the factors are in a file or published.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from longrope.catalogue import entry, names
from longrope.config import FolderModel
from longrope.extended import read_tiers, write_extended
from longrope.models.checkpoint import METADATA
from longrope.models.import_model import import_model


@contextlib.contextmanager
def given(model: Path, factors: Path, near: Path) -> Iterator[tuple[Path, Path]]:
    """The checkpoint with its record, and the file of its factors, for the time of the block.

    Published factors are written out, and a checkpoint that is not of the workflow is brought in as
    the model that they are for, in a folder beside `near`, whose disk weights can be linked to.
    Raises UserError for what cannot be extended (`import_model`); whether factors and weights
    belong together is for the export to say.
    """
    near.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{near.name}.", dir=near.parent) as made:
        tiers = _factors(factors, Path(made) / "factors")
        yield _checkpoint(model, tiers, Path(made) / "model"), tiers


def _factors(factors: Path, folder: Path) -> Path:
    if factors.exists() or str(factors) not in names():
        return factors
    found = entry(str(factors))
    write_extended(folder, found.tiers, folder.parent / "model")
    return folder / "extended.json"


def _checkpoint(model: Path, tiers: Path, folder: Path) -> Path:
    if (model / METADATA).exists() or not (model / "config.json").exists():
        return model
    rope = read_tiers(tiers).rope
    source = FolderModel(kind="folder", path=str(model))
    import_model(source, rope.model, rope.original_window, folder)
    return folder
