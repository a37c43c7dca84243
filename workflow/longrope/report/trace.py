"""What the trace of a search says of its cost."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from longrope.config import Config
from longrope.errors import UserError
from longrope.study import trace_path
from longrope.targets import recovery_files, search_files
from longrope.trace_file import read_trace_lines


@dataclass(frozen=True, slots=True)
class Spent:
    """What the trace of a search says of its cost."""

    tokens: tuple[int, ...]  # forwarded so far, after each score
    best: tuple[float | None, ...]  # perplexity by then of the best on all documents, if any
    ended: str = ""  # what the best is in the end: `searched`, or `start: yarn from 8k`; its n_hat

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
        lines = read_trace_lines(path)
        pairs = [(line["tokens"], line["best_perplexity"]) for line in lines]
        found[place] = Spent(*zip(*pairs, strict=True), _ended(lines))
    return found


def _ended(lines: list[dict]) -> str:
    """What the best candidate is: the one whose score made the best what it stayed."""
    last, winner = None, None
    for line in lines:
        if line["best_fitness"] != last:
            last, winner = line["best_fitness"], line
    if winner is None:
        return ""
    start = winner["start"]
    return f"{f'start: {start}' if start else 'searched'}, n_hat {winner['n_hat']}"


def _factors(config: Config) -> list[str]:
    return search_files(config) + recovery_files(config)
