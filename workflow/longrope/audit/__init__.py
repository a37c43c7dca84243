"""
An audit of any checkpoint: what its files say of its RoPE and window, and which engine errs on it.

Inference engines read the same config.json each in its own way, and most of what they misread stops
nothing: a scaling is a no-op, theta falls back to 10000, a table is never used. Each finding names
the file and the key, the engines that it misleads and what they do, and what to write instead.
Only small files and the headers of weights are read, and neither torch nor transformers is
imported. What engines do is told from their sources; docs/check.md says which were run.
"""

import dataclasses
from pathlib import Path

from longrope.audit.checkpoint import read_checkpoint
from longrope.audit.finding import SGLANG, T4, T5, VLLM, Finding, Report
from longrope.audit.gguf_file import check_gguf
from longrope.audit.scalings import check_scaling
from longrope.audit.schemas import check_schemas
from longrope.audit.surroundings import check_surroundings, remarks
from longrope.audit.tables import check_tables
from longrope.audit.values import CONFIG
from longrope.audit.weights import check_weights, unseen
from longrope.audit.windows import check_windows
from longrope.errors import UserError

BY_KEYS = ("transformers", "vllm", "sglang")  # engines of exports that are the same for all three


def check(path: Path) -> Report:
    """Everything that was found in a checkpoint folder, a config.json or a GGUF file."""
    path = Path(path)
    if path.suffix == ".gguf" or (path.is_dir() and _only_gguf(path)):
        file = path if path.suffix == ".gguf" else _only_gguf(path)
        return check_gguf(file)
    if not path.exists():
        hub = "; of a model of the hub: hf download NAME --local-dir FOLDER"
        raise UserError(f"{path}: no such folder or file{hub if len(path.parts) == 2 else ''}")
    if path.is_dir() and not (path / CONFIG).exists() and (path / "model" / CONFIG).exists():
        raise UserError(f"{path}: a folder of results; the checkpoint in it is {path / 'model'}")
    if path.is_file() and path.suffix != ".json":
        raise UserError(f"{path}: no config.json and no GGUF file; name the folder of a checkpoint")
    checkpoint = read_checkpoint(path)
    findings: list[Finding] = []
    if checkpoint.rotary:
        findings += [*checkpoint.wrong, *check_schemas(checkpoint)]
    if checkpoint.rotary and not checkpoint.wrong:  # else what is left is judged by defaults
        for block in checkpoint.blocks:
            findings += check_tables(checkpoint, block)
            findings += check_windows(checkpoint, block)
            findings += check_scaling(checkpoint, block)
    if not checkpoint.wrong:
        findings += check_surroundings(checkpoint)
    findings += check_weights(checkpoint)
    if checkpoint.exported_for in BY_KEYS:
        findings = [_for_others(each) for each in findings]
    noted = [*remarks(checkpoint), *(unseen(path) if path.is_dir() else [])]
    return Report(str(path), checkpoint.facts, tuple(findings), tuple(noted))


def _for_others(finding: Finding) -> Finding:
    """What is wrong in none but engines that an export was not made for: no error of it."""
    if finding.severity != "error" or {T4, T5, VLLM, SGLANG} & finding.engines.keys():
        return finding
    said = f"{finding.problem} This export was not made for {', '.join(finding.engines)}."
    return dataclasses.replace(finding, severity="warning", problem=said)


def _only_gguf(folder: Path) -> Path | None:
    """The one GGUF file of a folder without a config.json."""
    files = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").exists() or not files:
        return None
    if len(files) > 1:
        raise UserError(f"{folder}: {len(files)} GGUF files; name one of them")
    return files[0]
