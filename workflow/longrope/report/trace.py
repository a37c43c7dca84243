"""What the trace of a search says of its cost."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from longrope.config import Config
from longrope.errors import UserError
from longrope.files import read_lines
from longrope.study import trace_path
from longrope.targets import recovery_files, search_files


@dataclass(frozen=True, slots=True)
class Spent:
    """What the trace of a search says of its cost."""

    tokens: tuple[int, ...]  # forwarded so far, after each score
    best: tuple[float | None, ...]  # perplexity by then of the best on all documents, if any

    def until(self, perplexity: float) -> int | None:
        """Tokens forwarded until the best was at most that; None if it never was."""
        pairs = zip(self.tokens, self.best, strict=True)
        return next((tokens for tokens, best in pairs if best and best <= perplexity), None)


def read_traces(config: Config, paths: Iterable[Path]) -> dict[str, Spent]:
    """The traces by their paths from results/ on; UserError for one that is not configured."""
    known, found = {trace_path(path) for path in _factors(config)}, {}
    for path in map(Path, paths):
        place = "/".join(path.parts[-7:])
        if place not in known:
            raise UserError(f"{path}: the trace of no search that is configured")
        try:
            pairs = [(line["tokens"], line["best_perplexity"]) for line in read_lines(path)]
        except KeyError as error:
            raise UserError(f"{path}: the key {error} is missing; search again") from None
        if not pairs:
            raise UserError(f"{path}: no records; run the search that writes it")
        found[place] = Spent(*zip(*pairs, strict=True))
    return found


def _factors(config: Config) -> list[str]:
    return search_files(config) + recovery_files(config)
