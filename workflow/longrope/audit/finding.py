"""
One thing that is wrong with a checkpoint, and the report of all of them, as text and as JSON.
"""

import dataclasses
import textwrap
from dataclasses import dataclass, field
from typing import Literal

from longrope.errors import unknown_name

T4, T5, VLLM, SGLANG, LLAMA_CPP, MLX = (
    "transformers 4", "transformers 5", "vLLM", "SGLang", "llama.cpp", "MLX",
)  # fmt: skip
OF_OLLAMA = "Ollama"  # how a remark begins that concerns it alone
ENGINES = {  # as options name them; Ollama runs llama.cpp's code
    "transformers-4": T4,
    "transformers-5": T5,
    "vllm": VLLM,
    "sglang": SGLANG,
    "llama.cpp": LLAMA_CPP,
    "ollama": LLAMA_CPP,
    "mlx": MLX,
}
ALL = (T4, T5, VLLM, SGLANG, LLAMA_CPP, MLX)

# error: some engine computes something else than was meant, or cannot load it. warning: it may be
# meant, or bites in some uses only. note: unusual, with nothing known to go wrong.
Severity = Literal["error", "warning", "note"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, where, which engine it misleads and how, and what to write instead."""

    code: str  # its short name, which does not change
    severity: Severity
    file: str
    key: str
    problem: str
    engines: dict[str, str]  # engine -> what happens there
    instead: str


def everywhere(text: str) -> dict[str, str]:
    """The same consequence in every engine."""
    return dict.fromkeys(ALL, text)


def among(text: str, *engines: str) -> dict[str, str]:
    """The same consequence in some engines."""
    return dict.fromkeys(engines, text)


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found in one checkpoint."""

    path: str
    facts: dict[str, object]  # what it says of its RoPE
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = field(default=())  # how engines treat it, with nothing wrong

    @property
    def failed(self) -> bool:
        """Whether something is an error."""
        return any(each.severity == "error" for each in self.findings)

    def only(self, engines: list[str]) -> "Report":
        """What concerns some engines, by the names of `ENGINES`."""
        for name in engines:
            if name not in ENGINES:
                raise unknown_name("engine", name, ENGINES)
        wanted = {ENGINES[name] for name in engines}
        kept = []
        for each in self.findings:
            if concerned := {name: text for name, text in each.engines.items() if name in wanted}:
                kept.append(dataclasses.replace(each, engines=concerned))
        told = self.remarks
        if LLAMA_CPP not in wanted:
            told = tuple(each for each in told if not each.startswith(OF_OLLAMA))
        return dataclasses.replace(self, findings=tuple(kept), remarks=told)

    def as_json(self) -> dict:
        """The report for machines."""
        return {
            "path": self.path,
            "facts": self.facts,
            "findings": [dataclasses.asdict(each) for each in self.sorted()],
            "remarks": list(self.remarks),
        }

    def sorted(self) -> list[Finding]:
        """Errors first."""
        return sorted(self.findings, key=lambda each: ORDER.index(each.severity))

    def as_text(self) -> str:
        """The report for people."""
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        lines = [f"{self.path}: {facts}"]
        for each in self.sorted():
            lines += ["", f"{each.severity.upper()} {each.code}: {each.file}, {each.key}"]
            lines.append(_indent(each.problem))
            by_text: dict[str, list[str]] = {}
            for engine, text in each.engines.items():
                by_text.setdefault(text, []).append(engine)
            for text, engines in by_text.items():
                names = "every engine" if len(engines) == len(ALL) else ", ".join(engines)
                lines.append(_indent(f"{names}: {text}", "    - "))
            lines.append(_indent(f"Instead: {each.instead}"))
        if self.remarks:
            lines += ["", *(_indent(text, "  Note: ") for text in self.remarks)]
        counts = [
            f"{number} {severity}{'s' if number > 1 else ''}"
            for severity in ORDER
            if (number := sum(each.severity == severity for each in self.findings))
        ]
        lines += ["", ", ".join(counts) or "nothing found"]
        return "\n".join(lines)


def _indent(text: str, first: str = "  ") -> str:
    return textwrap.fill(
        text, 100, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )
