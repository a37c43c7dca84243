"""
What a checkpoint on disk is: its window, theta and pairs, and whether it is made for chatting.

Only small files are read. Faults that the audit calls errors stop here, but for those that saving
with transformers 5 leaves in every checkpoint, which the import here reads right.
"""

from dataclasses import dataclass
from pathlib import Path

from longrope.audit import check
from longrope.audit.checkpoint import read_checkpoint
from longrope.config.base import name_of
from longrope.errors import UserError
from longrope.windows import window_label

HARMLESS = ("theta-only-in-block",)  # to transformers 5, which reads the checkpoint here


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that can be extended."""

    name: str  # what results/ calls it
    path: Path
    kind: str  # folder or gguf
    window: int  # tokens that it was pre-trained for
    theta: float
    pairs: int  # that turn in each head
    vocabulary: int
    chat: bool  # whether its tokenizer has a chat template
    notes: tuple[str, ...] = ()  # what to know of it

    @property
    def source(self) -> dict[str, str]:
        """The source of the model in a configuration."""
        return {"kind": self.kind, "path": str(self.path)}

    @property
    def line(self) -> str:
        """What it is, in one line."""
        chat = "with a chat template" if self.chat else "without a chat template"
        return (
            f"{self.name}: window {window_label(self.window)} ({self.window:,} tokens), theta"
            f" {self.theta:g}, {self.pairs} pairs, {chat}"
        )


def find(path: Path) -> Found:
    """What a checkpoint is; UserError if it is none, or rescaled already."""
    from longrope.models.import_model import check_untuned

    report = check(path)
    check_untuned(Path(path))
    # Before its faults: mending them would not help.
    if report.facts["scaling"] not in ("none", "default"):
        raise UserError(
            f"{path}: its RoPE is rescaled already ({report.facts['scaling']}), and two scalings"
            " are not composed: start from the model that it was made from"
        )
    wrong = [
        each
        for each in report.findings
        if each.severity == "error" and each.code not in HARMLESS
    ]  # fmt: skip
    if wrong:
        first = wrong[0]
        raise UserError(
            f"{path}: {first.problem} ({first.file}, {first.key}); write {first.instead}."
            f" `longrope check {path}` has all that is wrong with it"
        )
    if report.facts.get("RoPE") == "none":
        raise UserError(
            f"{path}: {report.facts['model']} has no RoPE, so there is nothing to rescale: LongRoPE"
            " extends models such as Llama, Mistral, Qwen or Phi"
        )
    file = Path(report.path)
    return _of_gguf(file, report.facts) if file.suffix == ".gguf" else _of_folder(file)


def _of_folder(path: Path) -> Found:
    known = read_checkpoint(path)
    window, notes = known.window, []
    if window is None or known.pairs is None:
        raise UserError(
            f"{path}/config.json: states no window (max_position_embeddings), or no heads"
        )
    sliding = known.config.get("sliding_window")
    if known.config.get("use_sliding_window", True) and sliding and sliding < window:
        notes.append(
            f"its sliding window, {window_label(sliding)}, is taken for its window: no token ever"
            f" saw further; the import switches it off (max_position_embeddings is {window})"
        )
        window = sliding
    template = (path / "chat_template.jinja").exists() or "chat_template" in known.tokenizer
    return Found(
        name_of(path.resolve().name), path.resolve(), "folder", window, known.theta, known.pairs,
        known.config.get("vocab_size") or 32_000, template, tuple(notes),
    )  # fmt: skip


def _of_gguf(path: Path, facts: dict) -> Found:
    import gguf

    if facts["window"] is None or facts["pairs"] is None:
        raise UserError(f"{path}: states no window (context_length), or no one number of pairs")
    fields = gguf.GGUFReader(path).fields
    words = fields.get("tokenizer.ggml.tokens")
    return Found(
        name_of(path.stem), path.resolve(), "gguf", facts["window"], float(facts["theta"]),
        facts["pairs"], len(words.data) if words else 32_000,
        "tokenizer.chat_template" in fields,
        ("weights of a GGUF file are dequantised: what was lost in 4 bits stays lost",),
    )  # fmt: skip
