"""
What a run of a stage leaves for tracking: the record beside its log, with settings and outcome.
"""

import argparse
import datetime
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from longrope import __version__
from longrope.files import parse_json
from longrope.project import commit
from longrope.secret import hidden_in
from longrope.tracking.records import RunRecord, write_record


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage tells of itself for tracking."""

    metrics: dict[str, float] = field(default_factory=dict)  # final values
    curves: list[Path] = field(default_factory=list)  # .jsonl files with numbers by step
    artifacts: list[Path] = field(default_factory=list)  # files worth keeping with the run


class Began:
    """When a run began."""

    def __init__(self) -> None:
        self.at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._at = time.monotonic()

    def seconds_ago(self) -> float:
        return round(time.monotonic() - self._at, 3)


def record_path(options: argparse.Namespace) -> Path | None:
    """Where the record of a run goes, if it has one."""
    tracked = options.log is not None and options.tracked
    return options.log.with_suffix(".run.json") if tracked else None


def content_of(path: Path | None) -> bytes:
    """What a record holds by now; empty where there is none."""
    return path.read_bytes() if path and path.exists() else b""


def leave_record(
    options: argparse.Namespace,
    path: Path,
    began: Began,
    status: str,
    outcome: Outcome,
    tags: dict[str, str],
) -> None:
    """Write the record of a run that began with `began` and ended as `status` says."""
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
    """The options of the run, with the settings unfolded."""
    plain = {
        key: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in vars(options).items()
        if key not in ("run", "run_id", "stage", "tracked", "settings", "log")
    }
    if "settings" not in options:
        return plain | {"settings": {}}
    from longrope.reading import settings_text

    try:
        return plain | {"settings": parse_json(settings_text(options.settings))}
    except ValueError:  # the stage has said so
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
