"""
One GPU a job: which of the visible ones a process takes, so that two never share one by accident.

Snakemake counts GPUs and does not assign them: every job of a workstation sees them all. A process
that wants one locks a file in a folder of the machine, named after the GPU's own id, and holds it
until it ends; the system frees it however the process ends. All workflows of all users thus take
turns; in a Slurm job, too, whose GPUs several jobs of a study may share. Nothing is leased on a
CPU, and where LONGROPE_LEASES is `none`; any other value is the folder. Where several processes run
a stage together, the one that watches over them leases a GPU for each. Imports nothing heavy.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from longrope.errors import UserError
from longrope.parallel.place import is_rank

LOCKS = Path("/tmp/longrope-gpus")  # the same for all users, whatever their TMPDIR is
SETTING = "LONGROPE_LEASES"
UNLEASED = "none"  # the value of it where nothing is leased
POLL = 2.0  # seconds between two looks for a free one

_held: list[tuple[int, FileLock]] = []  # of this process, until it ends


def gpu_of_this_process() -> int:
    """The index of the GPU that this process may use, leased at the first call."""
    import torch

    if is_rank() or not leasing():
        return int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    if not _held:
        _held.append(lease(_names()))
    return _held[0][0]


def lease_several(count: int, folder: Path | None = None, names: Sequence[str] = ()) -> list[int]:
    """Lease so many GPUs of this machine until this process ends; their indices.

    Whoever wants several waits in a line of its own, so that no two hold what the other lacks.
    The machine must have so many.
    """
    names = names or _names()
    folder = folder or Path(os.environ.get(SETTING, LOCKS))
    with FileLock(_writable(folder) / "several.lock", mode=0o666):
        while len(_held) < count:
            taken = {index for index, _ in _held}
            free = [index for index in range(len(names)) if index not in taken]
            at, lock = lease([names[index] for index in free], folder)
            _held.append((free[at], lock))
    return [index for index, _ in _held]


def _names() -> list[str]:
    """What tells the visible GPUs apart on this machine."""
    import torch

    count = torch.cuda.device_count()
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]


def leasing() -> bool:
    """Whether GPUs are leased here."""
    return os.environ.get(SETTING) != UNLEASED


def lease(names: Sequence[str], folder: Path | None = None) -> tuple[int, FileLock]:
    """Lock the first device that is free, waiting for one; returns its place among `names`.

    `names` tell devices apart on this machine. The lock is held for as long as the object lives.
    """
    folder = folder or Path(os.environ.get(SETTING, LOCKS))
    locks = [FileLock(_writable(folder) / f"{name}.lock", timeout=0, mode=0o666) for name in names]
    waiting = False
    while True:
        for index, lock in enumerate(locks):
            try:
                lock.acquire()
            except Timeout:
                continue
            except OSError as error:
                raise _not_usable(lock.lock_file, error) from error
            return index, lock
        if not waiting:
            print(
                f"all {len(names)} GPUs are leased to other jobs ({folder}): waiting for one",
                file=sys.stderr,
                flush=True,
            )
            waiting = True
        time.sleep(POLL)


def _writable(folder: Path) -> Path:
    """The folder, made for all users of the machine."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o777)
    except OSError as error:
        raise _not_usable(folder, error) from error
    return folder


def _not_usable(place, error: OSError) -> UserError:
    return UserError(
        f"{place}: no lock can be put there ({error}); set {SETTING} to a folder that all jobs of"
        " this machine can write to, or to none where GPUs are assigned to jobs otherwise"
    )
