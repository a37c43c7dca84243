"""
An end between two steps: what asks a process to stop is heeded once its progress is saved.

Ctrl-C, a time limit (Slurm sends SIGTERM half a minute before it kills) and `in_pieces.py` all ask
by a signal. A second one ends the process where it is.

Snakemake gets the same signal, and calls a job failed that it ended itself: `Stopped` tells its
words of that from those of a failure.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ENDS = "Terminating processes on user request"  # as Snakemake says on SIGINT
WAITS = "Will exit after finishing currently running jobs"  # on SIGTERM
FAILURES = ("JOB_ERROR", "ERROR")  # kinds of its messages


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """A function that says whether a signal has come; whoever asks it must end soon after.

    Outside the main thread, which alone gets signals, it never has.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = []
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame) -> None:
        asked.append(number)
        for each, handler in before.items():  # the next one is not for us
            signal.signal(each, handler or signal.SIG_DFL)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


class Stopped(logging.Filter):
    """Of Snakemake's logger: whether its user has stopped it before any job failed. What it then
    says of the jobs that the signal has ended is left out: the whole command of each, twice, and
    its log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_user = self._ending = self._failed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to print a message."""
        said = record.getMessage()
        self._ending = self._ending or said.startswith(ENDS)
        self.by_user = self.by_user or said.startswith((ENDS, WAITS))
        kind = getattr(getattr(record, "event", None), "name", None)
        self._failed = self._failed or (kind == "JOB_ERROR" and not self.by_user)
        return not (self._ending and kind in FAILURES)

    def closing(self) -> str:
        """What to tell the user of a workflow that is not done."""
        if self.by_user and not self._failed:
            return (
                "Stopped, as you asked. What is done is kept, and what ran has saved how far it"
                " was: the same command goes on from there."
            )
        return (
            "Not done: the message of the job that ended it stands above, and in its log. What is"
            " done is kept: the same command goes on from there."
        )
