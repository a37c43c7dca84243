"""
Whether the import will take a checkpoint, asked before a configuration for it is written.

These are the import's own checks, on the files as they are: nothing is copied, linked, hashed or
dequantised, and the architecture is built without weights.
"""

import dataclasses
import tempfile
from pathlib import Path

from longrope.models.loading import readable
from longrope.own_model.checkpoint import Found


def check_importable(found: Found) -> None:
    """Raise UserError if the import would refuse a checkpoint, with what it would say."""
    from longrope.models.checkpoint import load_tokenizer, quiet
    from longrope.models.import_model import check_contents
    from longrope.models.origin import existing_folder

    quiet()
    if found.kind == "folder":
        existing_folder(found.path)
        load_tokenizer(found.path)
        _check_architecture(found.path, found)
        if any(found.path.glob("*.safetensors")):  # pickled weights would have to be read
            check_contents(found.path, found.path)
        return
    from transformers import AutoConfig, AutoTokenizer

    parent, file = found.path.parent, found.path.name
    with tempfile.TemporaryDirectory() as folder:

        def read() -> None:
            AutoTokenizer.from_pretrained(parent, gguf_file=file, trust_remote_code=False)
            config = AutoConfig.from_pretrained(parent, gguf_file=file, trust_remote_code=False)
            config.save_pretrained(folder)

        readable(found.path, "not a GGUF file that transformers can read", read)
        _check_architecture(Path(folder), found)


def _check_architecture(folder: Path, found: Found) -> None:
    from longrope.models.architectures import check_head, complete_config, rope_of_config
    from longrope.models.import_model import check_plain, check_rotary

    config = complete_config(folder)
    rope = rope_of_config(config, found.name)
    check_head(config, found.name)
    check_plain(config, rope, found.window, config.get("sliding_window"))
    check_rotary(folder, dataclasses.replace(rope, original_window=found.window))
