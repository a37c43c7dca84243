"""
Progress that stays readable: a bar on a terminal, a line now and then in a log.

Several jobs of a workflow write to one terminal, and what a job prints also goes to its log file;
a bar that redraws itself is only of use alone on a terminal.
"""

import sys
import time

EVERY = 15.0  # seconds between two lines where no bar can be drawn


class Progress:
    """Shows how far a long loop is: `search tiny 1k: 40/100 [00:12 < 00:18] best 33.1`."""

    def __init__(self, title: str, total: int, start: int = 0) -> None:
        self._title, self._total, self.start = title, total, start
        self._began = time.monotonic()
        self._shown = 0.0
        self._live = sys.stderr.isatty()
        if start:
            print(f"{title}: going on from {start}/{total}", file=sys.stderr, flush=True)

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of the total are done."""
        now = time.monotonic()
        last = done >= self._total
        if not last and now - self._shown < (0.2 if self._live else EVERY):
            return
        self._shown = now
        spent = now - self._began
        left = spent / max(1, done - self.start) * (self._total - done)
        text = (
            f"{self._title}: {done}/{self._total} [{_clock(spent)} < {_clock(left)}]"
            f"{' ' + note if note else ''}"
        )
        bar = f"[{'#' * round(20 * done / self._total):<20}]"
        if self._live:
            print(f"\r\x1b[K{bar} {text}", end="", file=sys.stderr, flush=True)
        else:
            print(f"{bar} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line of the bar."""
        if self._live:
            print(file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
