"""
A file or folder is written beside its place, flushed to disk and renamed: it is whole or absent.

What a killed process was writing stays behind under a name of its own, which nobody takes for a
result and the next write of the same path removes.
"""

import contextlib
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

DRAFT = ".part"  # how the name of what is being written ends
DEAD_AFTER = 24 * 3600  # s without a change, for a draft of another machine


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` if the block ends well, else it is removed.

    The block may write a file or make a directory; a directory replaces an older one, which comes
    back where the new one cannot be put there; a link is followed. What killed processes have left
    of the same path is removed.
    """
    path = Path(path).resolve() if Path(path).is_symlink() else Path(path)
    draft, old = _beside(path, ""), _beside(path, ".old")
    try:
        yield draft
        flush_folder(draft)
        if draft.is_dir() and path.is_dir():
            os.replace(path, old)  # a folder half of which is removed would look like a whole one
        os.replace(draft, path)
        _flush_entry(path.parent)
    finally:
        if old.is_dir() and not path.exists():  # the new one could not be put there
            os.replace(old, path)
        _remove(draft)
        _remove(old)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, on its disk, for the time of the block."""
    folder = _beside(Path(path), ".scratch")
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


def _beside(path: Path, kind: str) -> Path:
    """A name that is free for this process; what dead ones have left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.parent / f".{path.name}.{os.getpid()}@{platform.node()}{kind}{DRAFT}"
    for left in [own, *_left_behind(path)]:
        _remove(left)
    return own


def _left_behind(path: Path) -> Iterator[Path]:
    """Drafts of a path whose process is dead. One of another machine, which cannot be asked, counts
    as dead when nothing in it has changed for a day by the clock of the disk that they are on."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)@(.+?)(\.old|\.scratch)?{re.escape(DRAFT)}")
    for each in path.parent.iterdir():
        if not (found := name.fullmatch(each.name)):
            continue
        if found[2] == platform.node():
            if not _is_alive(int(found[1])):
                yield each
        elif _now_on_disk(path.parent) - _last_change(each) > DEAD_AFTER:
            yield each


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; where that cannot be asked, it does."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _now_on_disk(folder: Path) -> float:
    """The time of whoever keeps a folder, which on a shared disk is another machine."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _last_change(draft: Path) -> float:
    """When a draft, or anything in it, was written to; now if it is just being renamed."""
    newest = 0.0
    for each in [draft, *draft.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, each.stat().st_mtime)
    return newest or math.inf


def flush_folder(draft: Path) -> None:
    """Make sure that a file, or a folder and what is in it, is on disk."""
    for path in [draft, *draft.rglob("*")] if draft.is_dir() else [draft]:
        _flush_entry(path)


def _flush_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
