"""
What surrounds every stage that the command line runs: its log, its record, its exit code.

Whatever a stage prints also goes to `--log FILE`, and beside that file a record of the run (`FILE`
with the ending .run.json) is written for `longrope sync`, also where the stage fails.
"""

import argparse
import datetime
import errno
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from longrope import __version__
from longrope.errors import UserError, one_line
from longrope.files import is_disk_full
from longrope.logs import logging_to, silent
from longrope.memory import is_out_of_memory
from longrope.parallel.launch import check_spreads, end_with_watcher, launch
from longrope.parallel.place import here, join, leave
from longrope.parallel.reasons import leave_report
from longrope.secret import hidden, hidden_in
from longrope.state import release_states

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What is at a path is of another kind, or cannot be had: the machine's, no bug.
IN_THE_WAY = (
    errno.EEXIST, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG,
    errno.ENOTDIR, errno.ENOTEMPTY,
)  # fmt: skip
OPTIONAL = ("datasets", "gguf", "matplotlib", "mlflow", "pandas", "sentencepiece")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage tells of itself for tracking."""

    metrics: dict[str, float] = field(default_factory=dict)  # final values
    curves: list[Path] = field(default_factory=list)  # .jsonl files with numbers by step
    artifacts: list[Path] = field(default_factory=list)  # files worth keeping with the run


def run_stage(options: argparse.Namespace) -> int:
    """Run `options.run`; 0 = done, 1 = the user can mend it, 70 = a bug, 130 = interrupted."""
    try:
        _recorded(options)
    except KeyboardInterrupt:
        print(f"longrope {options.stage}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if (said := what_to_mend(error)) is None:
            print(hidden(traceback.format_exc()), end="", file=sys.stderr)
            return 70
        print(f"longrope {options.stage}: {said}", file=sys.stderr)
        return 1
    return 0


def run_several(options: argparse.Namespace, arguments: list[str]) -> int:
    """The same in several processes, over which this one watches. Rank 0 leaves the record; where
    another one failed and took it along, it is left here."""
    path, began = _record_path(options), _Began()
    before = _content_of(path)
    code = launch(options, arguments)
    if code and path and _content_of(path) == before:
        tags = {"error": f"exit code {code}; the log says why"}
        _leave_record(options, path, began, "failed", Outcome(), tags)
    return code


def run_rank(options: argparse.Namespace) -> int:
    """The same as one of several processes: rank 0 alone prints and keeps the log, and the process
    that watches over them says why one failed."""

    def give_up(silence: Exception) -> None:
        leave_report(options.stage, silence, str(silence))
        os._exit(1)

    end_with_watcher()
    try:
        check_spreads(options.stage)
        place = join(options.per_sequence, options.patience, give_up)
        with logging_to(options.log) if place.leads else silent():
            _recorded(options)
        leave()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        said = what_to_mend(error)
        code = 70 if said is None else 1
        leave_report(options.stage, error, said)
        return code
    return 0


def what_to_mend(error: Exception) -> str | None:
    """What to tell the user of an error that is no bug; None if it is one."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in OPTIONAL:
        return f'this needs the package {error.name!r}: pip install "longrope[workflow]"'
    if is_disk_full(error):
        return f"no room on the disk ({one_line(error)}): make some and run the stage again"
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
        return f"{one_line(error)}: the file system does not allow it; run the stage where it does"
    if isinstance(error, OSError) and error.errno in IN_THE_WAY:
        path = error.filename2 or error.filename or "a file"
        return f"{path}: {error.strerror}: name another path, or mend what is there"
    if is_out_of_memory(error):
        said = one_line(error, 200)
        return (
            f"out of memory ({said}): `longrope plan` says what every job needs, docs/memory.md"
            " what can be lowered"
        )
    return None


def _recorded(options: argparse.Namespace) -> None:
    """Run the stage; with --log, leave a record of the run beside the log, also if it fails."""
    path = _record_path(options)
    if path is None or not here().leads:
        try:
            options.run(options)
        finally:
            release_states()
        return
    began, outcome, tags, status = _Began(), Outcome(), {}, "failed"
    try:
        outcome = options.run(options) or outcome
        status = "finished"
    except BaseException as error:
        tags["error"] = hidden(f"{type(error).__name__}: {error}")[:500]
        raise
    finally:
        release_states()
        _leave_record(options, path, began, status, outcome, tags)


class _Began:
    """When a run began."""

    def __init__(self) -> None:
        self.at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._at = time.monotonic()

    def seconds_ago(self) -> float:
        return round(time.monotonic() - self._at, 3)


def _record_path(options: argparse.Namespace) -> Path | None:
    """Where the record of a run goes, if it has one."""
    tracked = options.log is not None and options.tracked
    return options.log.with_suffix(".run.json") if tracked else None


def _content_of(path: Path | None) -> bytes:
    return path.read_bytes() if path and path.exists() else b""


def _leave_record(
    options: argparse.Namespace,
    path: Path,
    began: _Began,
    status: str,
    outcome: Outcome,
    tags: dict[str, str],
) -> None:
    from longrope.tracking.records import RunRecord, write_record

    record = RunRecord(
        run_id=options.run_id,
        stage=options.stage,
        name=str(options.log.with_suffix("")),
        status=status,
        started=began.at,
        seconds=began.seconds_ago(),
        params=hidden_in(_params(options)),
        metrics=outcome.metrics,
        curves=[str(path) for path in outcome.curves],
        artifacts=[str(path) for path in outcome.artifacts],
        tags=hidden_in(_tags(options) | tags),
    )
    try:
        write_record(path, record)
    except OSError as error:  # of a disk, which does not fail a stage that is done
        print(f"no run record: {error}", file=sys.stderr)


def _params(options: argparse.Namespace) -> dict:
    """The options of the run, with the settings as they are, or as their `@FILE` has them."""
    from longrope.reading import settings_text

    plain = {
        key: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in vars(options).items()
        if key not in ("run", "run_id", "stage", "tracked", "settings", "log")
    }
    try:
        return plain | {"settings": json.loads(settings_text(getattr(options, "settings", "{}")))}
    except (UserError, json.JSONDecodeError):  # the stage has said so
        return plain | {"settings": options.settings}


def _tags(options: argparse.Namespace) -> dict[str, str]:
    place = options.log.parts[1:3] if options.log.parts[0] == "logs" else ()
    return {
        **dict(zip(("model", "weights"), place, strict=False)),
        "stage": options.stage,
        "longrope": __version__,
        "commit": commit(),
        "host": platform.node(),
        "log": str(options.log),
    }


def commit() -> str:
    """The commit of this package, `+` if it has changes; empty outside a checkout."""
    try:
        answer = subprocess.run(
            [
                "git",
                "-C",
                Path(__file__).parent,
                "describe",
                "--always",
                "--dirty=+",
                "--abbrev=12",
            ],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()
