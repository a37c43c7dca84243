"""
What each engine makes of an exported model: which keys it reads, and what it does on its own.

An engine may choose a table by what it allocated instead of by the text, and may scale attention as
it likes. What is said here was read in the named version's own source, and measured where
docs/results/export-engines.md says so. Nothing heavy is imported.
"""

from dataclasses import dataclass
from typing import Literal

from longrope.errors import UserError, unknown_name

Attention = Literal["keys", "weights", "metadata"]


@dataclass(frozen=True, slots=True)
class Engine:
    """One target of an export."""

    name: str
    read: str  # the versions whose source was read
    file: Literal["folder", "gguf"]  # what it loads
    attention: Attention  # where an attention factor other than 1 goes
    two_tables: str  # which of two tables it uses; or, after "no: ", why two are refused

    def check_two_tables(self, factors: tuple[float, float]) -> None:
        """Raise UserError unless two tables with these attention factors work here."""
        if self.two_tables.startswith("no: "):
            raise UserError(
                f"two tables of factors for {self.name}: {self.two_tables.removeprefix('no: ')};"
                " export one table (the default)"
            )
        if factors[0] != factors[1]:
            raise UserError(
                f"two tables of factors for {self.name}: their attention factors are"
                f" {factors[0]:g} and {factors[1]:g}, and it has one for both; export one table"
                " (the default), or the form full, which keeps every tier's own"
            )


ENGINES = {
    each.name: each
    for each in (
        Engine(
            "transformers",
            "4.57.6 and 5.23.0",
            "folder",
            "keys",
            "by the largest position of every forward call, for all rows of its batch",
        ),
        Engine(
            "vllm",
            "0.33.0",
            "folder",
            "keys",
            "no: it uses the long one for every text as soon as --max-model-len is above the"
            " original window",
        ),
        Engine(
            "sglang",
            "0.5.23",
            "folder",
            "keys",
            "no: it chooses for all the tokens of a batch together, and gives the first position"
            " behind the original window the angle of position 0",
        ),
        Engine(
            "mlx",
            "mlx-lm 0.32.2",
            "folder",
            "weights",  # it passes on neither attention_factor nor long_mscale
            "no: it uses the long one always",
        ),
        Engine(
            "llama.cpp",
            "as in xllamacpp 2026.10.11549",
            "gguf",
            "metadata",
            "the long one as soon as the context that it allocates is above the original window",
        ),
        Engine(
            "any",
            "all of these",
            "folder",
            "weights",
            "no: engines disagree on which of two they use",
        ),
    )
}


def find_engine(name: str) -> Engine:
    """The engine of a name; UserError lists the known ones."""
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    return ENGINES[name]
