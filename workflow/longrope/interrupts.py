"""
An end between two steps: what asks a process to stop is heeded once its progress is saved.

Ctrl-C, a time limit (Slurm sends SIGTERM half a minute before it kills) and `in_pieces.py` all ask
by a signal. A second one ends the process where it is.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
