"""
Files that are whole or absent, with checksums, and fingerprints of what they were made from.

Every result goes through here or `drafts`, so a killed process never leaves half of one; terminal
logs, locks and MLflow's database do not. What a later stage reads is written with a checksum
(`write_checked`), and damage is an error that says what to delete. Logs of records (`.jsonl`) are
appended to line by line, each with a checksum; a last line that a kill cut short is dropped when
they are read again, and one that the disk changed is an error.
"""

import bz2
import contextlib
import errno
import gzip
import hashlib
import json
import lzma
import os
import shutil
import zlib
from pathlib import Path

from longrope.drafts import replacing
from longrope.errors import UserError

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None

FICLONE = 0x40049409  # Linux: make one file share the blocks of another
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: ulimit -f
SAID_OF_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
CHECKSUM = "checksum"  # the last key of a JSON file that has one
SUM = b', "crc32": "'  # before the checksum of a line that was appended
COMPRESSED = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, which may be compressed; UserError if it cannot be read."""
    try:
        with COMPRESSED.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (from {Path.cwd()})") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, where a file is needed") from None
    except (OSError, UnicodeDecodeError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: not a readable UTF-8 text ({error})") from None


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_checked(path: Path, value: dict) -> None:
    """Write a JSON object with a checksum of what it says as its last value."""
    read_again = json.loads(json.dumps(value, allow_nan=False))
    write_json(path, value | {CHECKSUM: fingerprint(read_again)})


def parse_json(text: str) -> object:
    """The value of a JSON text; ValueError for all that is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: Path, remedy: str = "") -> dict:
    """The JSON object in `path`, without its checksum; UserError if it is missing, broken, no
    object, or says something else than when it was written. `remedy` is what then to do."""
    remedy = f"; {remedy}" if remedy else ""
    try:
        value = parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}){remedy}") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{path}: holds a JSON {kind}, expected an object{remedy}")
    sum_ = value.pop(CHECKSUM, None)
    if sum_ is not None and sum_ != fingerprint(value):
        raise UserError(
            f"{path}: its checksum does not fit what it says, so it is damaged, or was changed by"
            f" hand (then take the line {CHECKSUM!r} out){remedy}"
        )
    return value


def append_line(path: Path, record: dict) -> None:
    """Append one record, and its checksum, to a `.jsonl` file and flush it to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(_with_checksum(record))
        file.flush()
        os.fsync(file.fileno())


def write_lines(path: Path, records: list[dict]) -> None:
    """Write a `.jsonl` file, whole or not at all; each line says how many there are."""
    write_text(path, "".join(_with_checksum(record, len(records)) for record in records))


def read_lines(path: Path) -> list[dict]:
    """The records of a `.jsonl` file; UserError if it is missing, damaged, empty, or was written
    whole and is cut short. One without any checksum is of another origin and read as it is."""
    records, lines = _read_lines(path)
    if not records or lines not in (0, len(records)):
        raise UserError(
            f"{path}: cut short after {len(records)} lines; delete {path.parent} and run its stage"
            " again"
        )
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
    return _read_lines(path)[0]


def _read_lines(path: Path) -> tuple[list[dict], int]:
    """The records of a file, and how many the last of them says there are, 0 if it does not.
    UserError naming the line that is damaged."""
    try:
        lines = Path(path).read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    checked, records, number = any(SUM in line for line in lines), [], 0
    for at, line in enumerate(lines if lines != [b""] else [], 1):
        text, _, sum_ = line.partition(SUM)
        try:
            record = parse_json((text + b"}" if checked else line).decode("utf-8"))
            if not isinstance(record, dict):
                raise ValueError("no object")
            number = int(sum_[8:].removeprefix(b" of ").removesuffix(b'"}') or 0) if checked else 0
            if checked and _with_checksum(record, number).encode() != line + b"\n":
                raise ValueError("another checksum")
        except ValueError:
            raise UserError(
                f"{path}: line {at} is damaged; delete {path.parent} and run its stage again"
            ) from None
        records.append(record)
    return records, number


def _with_checksum(record: dict, lines: int = 0) -> str:
    """A record as a line, its last value a checksum, with the lines of a file that is written
    whole."""
    text, of = json.dumps(record, allow_nan=False), f" of {lines}" if lines else ""
    return f'{text[:-1]}{SUM.decode()}{zlib.crc32(f"{text}{of}".encode()):08x}{of}"}}\n'


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


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk is full, by an error of Python or of a library that writes by itself."""
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return True
    cause = error.__cause__ or error.__context__
    said = any(text in str(error) for text in SAID_OF_FULL)
    return said or (cause is not None and is_disk_full(cause))
