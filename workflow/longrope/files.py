"""
Files that are whole or absent, and fingerprints of what they were made from.

Everything that the project writes goes through here: a file is written beside its place, flushed
to disk and renamed, so a killed process never leaves half of one. Logs of records (`.jsonl`) are
appended to line by line, each with a checksum; a last line that a kill cut short is dropped when
they are read again, and one that the disk changed is an error.
"""

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import math
import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from longrope.errors import UserError

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None

DRAFT = ".part"  # how the name of what is being written ends
DEAD_AFTER = 24 * 3600  # s without a change, for a draft of another machine
FICLONE = 0x40049409  # Linux: make one file share the blocks of another
SUM = ', "crc32": "'  # before the checksum of a line that was appended
COMPRESSED = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` if the block ends well, else it is removed.

    The block may write a file or make a directory; a directory replaces an older one. What killed
    processes have left of the same path is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{path.name}.{os.getpid()}@{platform.node()}"
    draft, old = path.parent / f"{mark}{DRAFT}", path.parent / f"{mark}.old{DRAFT}"
    for left in [draft, old, *_left_behind(path)]:
        _remove(left)
    try:
        yield draft
        flush_folder(draft)
        if draft.is_dir() and path.is_dir():
            os.replace(path, old)  # a folder half of which is removed would look like a whole one
        os.replace(draft, path)
        _flush_entry(path.parent)
    finally:
        _remove(draft)
        _remove(old)


def _left_behind(path: Path) -> Iterator[Path]:
    """Drafts of a path whose process is dead. One of another machine, which cannot be asked, counts
    as dead when nothing in it has changed for a day by the clock of the disk that they are on."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)@(.+?)(\.old)?{re.escape(DRAFT)}")
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


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, which may be compressed; UserError if it cannot be read."""
    try:
        with COMPRESSED.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: not a readable UTF-8 text ({error})") from None


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """The JSON object in `path`; UserError if it is missing, broken or no object."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def append_line(path: Path, record: dict) -> None:
    """Append one record, and its checksum, to a `.jsonl` file and flush it to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(_with_checksum(json.dumps(record, allow_nan=False)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_lines(path: Path, records: list[dict]) -> None:
    """Write a `.jsonl` file, whole or not at all."""
    write_text(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def read_lines(path: Path) -> list[dict]:
    """The records of a `.jsonl` file, without their checksums; UserError if it is missing or
    damaged."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    records = []
    for number, line in enumerate(lines, 1):
        text, _, summed = line.partition(SUM)
        try:
            if summed and _with_checksum(text + "}") != line:
                raise ValueError("another checksum")
            records.append(json.loads(text + "}" if summed else line))
        except ValueError:
            raise UserError(
                f"{path}: line {number} is damaged; delete {path.parent} and run its stage again"
            ) from None
    return records


def resume_lines(path: Path) -> list[dict]:
    """The records of a `.jsonl` file that is being appended to, none if there is none yet.

    A last line that a kill cut short is cut off the file; UserError for damage anywhere else.
    """
    if not path.exists():
        return []
    whole = path.read_bytes()
    good = whole.rfind(b"\n") + 1
    if good < len(whole):
        os.truncate(path, good)
    return read_lines(path)


def _with_checksum(text: str) -> str:
    """A JSON object as text, with a checksum of that text as its last value."""
    return f'{text[:-1]}{SUM}{zlib.crc32(text.encode()):08x}"}}'


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; where the file system can, the copy shares its blocks until one is changed."""
    if fcntl:
        with contextlib.suppress(OSError), source.open("rb") as old, target.open("wb") as new:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
            return
    shutil.copyfile(source, target)


def fingerprint(value: object) -> str:
    """A short hash of any JSON value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_of(*paths: Path) -> str:
    """The sha256 of the contents of some files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def open_state(path: Path, made_from: object, say: Callable[[str], None] = print) -> Path:
    """The directory that keeps a long step's progress, emptied if it belongs to other inputs.

    `made_from` is everything that decides the step's result (inputs by hash, settings, version):
    progress is only taken up again if all of it is unchanged.
    """
    path = Path(path)
    guard, mark = path / "made_from.json", {"fingerprint": fingerprint(made_from)}
    if path.exists() and (not guard.exists() or read_json(guard) != mark):
        if any(path.iterdir()):
            say(f"{path}: progress of other inputs or settings, starting afresh")
        shutil.rmtree(path)
    if not guard.exists():
        write_json(guard, mark)
    return path


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
