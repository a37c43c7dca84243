"""
The folder of a stage's progress: of which inputs it is, and that one process at a time works in it.

It outlives a kill, and is only gone on from if all that decides the result is unchanged. Two
processes that append to the same progress would spoil it: an earlier start that was killed without
its jobs, or a second workflow on another machine. So a process locks the folder until its stage
ends; the system lets go of the lock however the process ends.
"""

import contextlib
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from longrope.errors import UserError
from longrope.files import fingerprint, read_json, write_json

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None

WAIT = 100.0  # s for the lock of a process that may be ending, or of a machine that was lost
POLL = 0.5  # s
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of some file systems

_held: dict[Path, TextIO] = {}  # of this process, until `release_states`


def open_state(path: Path, made_from: object, say: Callable[[str], None] = print) -> Path:
    """The directory that keeps a long step's progress, emptied if it belongs to other inputs.

    `made_from` is everything that decides the step's result (inputs by hash, settings, version):
    progress is only taken up again if all of it is unchanged. Raises UserError if another process
    is at work there.
    """
    path = Path(path)
    _lock(path)
    guard, mark = path / "made_from.json", {"fingerprint": fingerprint(made_from)}
    if path.exists() and not _says(guard, mark):
        if any(path.iterdir()):
            say(f"{path}: progress of other inputs or settings, starting afresh")
        shutil.rmtree(path)
    if not guard.exists():
        write_json(guard, mark)
    return path


def release_states() -> None:
    """Let go of the locks of this process: its stage is over."""
    while _held:
        _held.popitem()[1].close()


def _lock(path: Path) -> None:
    """Lock a folder of progress, by a file beside it."""
    place = path.absolute()
    if fcntl is None or place in _held:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    file = (place.parent / f".{place.name}.lock").open("a+")
    began, waiting = time.monotonic(), False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() - began > WAIT:
                file.close()
                raise UserError(
                    f"{path}: {_holder(place)} is at work there, perhaps of an earlier start of the"
                    " workflow that was killed alone: wait until it is done, or end it"
                ) from None
            if not waiting:
                print(f"{path}: waiting for {_holder(place)}", file=sys.stderr, flush=True)
                waiting = True
            time.sleep(POLL)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            break
    with contextlib.suppress(OSError):  # a full disk: it only tells others who it is
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
    _held[place] = file


def _holder(place: Path) -> str:
    return (place.parent / f".{place.name}.lock").read_text() or "another process"


def _says(path: Path, mark: dict) -> bool:
    """Whether a JSON file holds just this; one that is missing or damaged does not."""
    try:
        return read_json(path) == mark
    except UserError:
        return False
