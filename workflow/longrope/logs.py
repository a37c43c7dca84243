"""
The log of a stage: what it prints goes to a file as well, line by line and without secrets.

A disk without room ends the log, never the stage.
"""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from longrope.errors import UserError
from longrope.secret import hidden, whole_words


@contextlib.contextmanager
def logging_to(path: Path | None):
    """Write standard output and error to `path` as well, line by line, without secrets."""
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--log {path}: cannot be written ({error})") from None
    log = _Log(opened, path)
    out, errors = _Tee(sys.stdout, log), _Tee(sys.stderr, log)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            yield
    finally:
        out.end()
        errors.end()
        log.close()


class _Log:
    """A log file that ends where it cannot be written, as on a full disk; the stage goes on."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path, self._ended = file, path, False

    def write(self, text: str) -> None:
        self._try(self._file.write, text)

    def flush(self) -> None:
        self._try(self._file.flush)

    def close(self) -> None:
        self._try(self._file.close)

    def _try(self, do: Callable, *arguments) -> None:
        if self._ended:
            return
        try:
            do(*arguments)
        except OSError as error:
            self._ended = True
            print(f"the log ends here: {self._path}: {error}", file=sys.__stderr__)


@contextlib.contextmanager
def silent():
    """Write nothing."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as behind `| head -1`."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def discard_output() -> None:
    """Let what is still to be printed go nowhere; else Python complains at its end."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)


class _Tee:
    """A text stream that writes to two; not a terminal, so that nothing draws bars on it.

    A line is written once it is whole, or if somebody flushes, its whole words: the parts of a
    secret that comes in several are none."""

    def __init__(self, *streams) -> None:
        self._streams = streams
        self._begun = ""  # of a line
        self._lock = threading.RLock()  # which a signal's handler that prints may hold already

    def write(self, text: str) -> int:
        with self._lock:
            self._begun += text
            self._show(1 + max(self._begun.rfind("\n"), self._begun.rfind("\r")))
        return len(text)

    def end(self) -> None:
        """Write what there is of a last line without an end."""
        with self._lock:
            self._show(len(self._begun))

    def _show(self, length: int) -> None:
        """Write the beginning of what has come."""
        if length:
            shown, self._begun = hidden(self._begun[:length]), self._begun[length:]
            for stream in self._streams:
                stream.write(shown)

    def flush(self) -> None:
        with self._lock:
            self._show(whole_words(self._begun))
        for stream in self._streams:
            stream.flush()

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing: what it writes to is not its own. Handlers of logging close what they got."""

    def fileno(self) -> int:
        return self._streams[0].fileno()
