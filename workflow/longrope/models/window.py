"""
The window that a configuration says a model was pre-trained for, against what the model says.

Of a folder on this machine that is told before any job runs; of a model of the hub or a GGUF file
when it is brought in, the first job. A config.json that is wrong is corrected itself, in a copy of
the folder: everything that is made of the model is made of it. This module imports nothing heavy.
"""

from pathlib import Path

from longrope.audit.checkpoint import read_checkpoint
from longrope.config import Config
from longrope.errors import UserError


def check_window(name: str, configured: int, stated: int, sliding: int | None) -> None:
    """Raise UserError unless the configured window is that of a checkpoint.

    That may be the sliding window that it was trained with: within it, no token sees further.
    """
    if configured not in (stated, sliding):
        raise UserError(
            f"model {name!r}: original_window is {configured} in the configuration, but its"
            f" max_position_embeddings is {stated}: set the window that it was pre-trained for. If"
            " its config.json is wrong, correct it in a copy of the folder, and name that"
        )


def check_folders(config: Config) -> None:
    """The same of every model whose folder is here, as far as its config.json says a window."""
    for name, model in config.models.items():
        folder = Path(getattr(model.source, "path", ""))
        if model.source.kind != "folder" or model.rope != "plain":
            continue
        if not (folder / "config.json").is_file():  # perhaps where the jobs run
            continue
        known = read_checkpoint(folder)
        if known.window is not None:
            sliding = known.config.get("sliding_window")
            check_window(name, model.original_window, known.window, sliding)
