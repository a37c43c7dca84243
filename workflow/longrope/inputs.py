"""
What a configuration reads that is to be had on this machine: checkpoints and texts that are named
by a path. Where jobs run elsewhere it may be missing here and there nonetheless, so what is absent
is a warning, not an error. This module imports nothing heavy.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from longrope.config import Config


def absent(config: Config) -> Iterator[str]:
    """A line for every checkpoint that is not here, and for every pattern of texts without a file,
    from the working directory."""
    for name, model in config.models.items():
        path = getattr(model.source, "path", None)
        needed = Path(path or ".") / ("config.json" if model.source.kind == "folder" else "")
        if path and not needed.exists():
            yield f"model {name!r}: {needed} is not there (from {Path.cwd()})"
    for name, corpus in config.corpora.items():
        if corpus.source.kind in ("text", "jsonl", "parquet"):
            for pattern in corpus.source.files:
                if not any(files_of([pattern])):
                    yield f"corpus {name!r}: no file matches {pattern!r} (from {Path.cwd()})"


def files_of(patterns: Iterable[str]) -> Iterator[Path]:
    """The files that globs name, each glob's in their order."""
    for pattern in patterns:
        root = Path("/") if pattern.startswith("/") else Path()
        yield from sorted(path for path in root.glob(pattern.lstrip("/")) if path.is_file())


def source_files(source) -> list[str]:
    """The local files that a corpus or a model comes from, as far as they exist."""
    match source.kind:
        case "text" | "jsonl" | "parquet":
            patterns = source.files
        case "folder":
            weights = f"{source.path}/*.safetensors"
            pickled = f"{source.path}/pytorch_model*.bin"
            found = any(files_of([weights]))
            patterns = [f"{source.path}/*.json", weights if found else pickled]
        case "gguf":
            patterns = [source.path]
        case _:
            patterns = []
    return [str(path) for path in files_of(patterns)]
