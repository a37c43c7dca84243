"""
The command line: one sub-command a stage, each named after the verb that its rule does.

This module imports nothing heavy: a stage's modules are imported when it runs, so that
`longrope --help` answers at once. Whatever a stage prints also goes to `--log FILE`, and beside
that file a record of the run (`FILE` with the ending .run.json) is written for `longrope sync`.
"""

import argparse
import contextlib
import datetime
import json
import platform
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from longrope import __version__
from longrope.errors import UserError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage tells of itself for tracking."""

    metrics: dict[str, float] = field(default_factory=dict)  # final values
    curves: list[Path] = field(default_factory=list)  # .jsonl files with numbers by step
    artifacts: list[Path] = field(default_factory=list)  # files worth keeping with the run


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; 0 = done, 1 = the user can mend it (one line says how), 2 = usage."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.stage is None:
        parser.print_help()
        return 2
    with _logging_to(options.log):
        try:
            _recorded(options)
        except UserError as error:
            print(f"longrope {options.stage}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"longrope {options.stage}: interrupted", file=sys.stderr)
            return 130
        except Exception:
            traceback.print_exc()
            return 70
    return 0


def _recorded(options: argparse.Namespace) -> None:
    """Run the stage; with --log, leave a record of the run beside the log, also if it fails."""
    if options.log is None or not options.tracked:
        options.run(options)
        return
    from longrope.tracking import RunRecord, write_record

    run_id, began = uuid.uuid4().hex, time.monotonic()
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    outcome, tags, status = Outcome(), _tags(options), "failed"
    try:
        outcome = options.run(options) or outcome
        status = "finished"
    except BaseException as error:
        tags["error"] = f"{type(error).__name__}: {error}"[:500]
        raise
    finally:
        record = RunRecord(
            run_id=run_id,
            stage=options.stage,
            name=str(options.log.with_suffix("")),
            status=status,
            started=started,
            seconds=round(time.monotonic() - began, 3),
            params=_params(options),
            metrics=outcome.metrics,
            curves=[str(path) for path in outcome.curves],
            artifacts=[str(path) for path in outcome.artifacts],
            tags=tags,
        )
        write_record(options.log.with_suffix(".run.json"), record)


def _params(options: argparse.Namespace) -> dict:
    """The options of the run, with the settings unfolded."""
    plain = {
        key: value if isinstance(value, int | float | str | list | type(None)) else str(value)
        for key, value in vars(options).items()
        if key not in ("run", "stage", "tracked", "settings", "log")
    }
    return plain | {"settings": json.loads(options.settings) if "settings" in options else {}}


def _tags(options: argparse.Namespace) -> dict[str, str]:
    return {
        "stage": options.stage,
        "longrope": __version__,
        "commit": _commit(),
        "host": platform.node(),
        "log": str(options.log),
    }


def _commit() -> str:
    """The commit of the working directory, `+` if it has changes; empty outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()


# --- the stages -----------------------------------------------------------------------------


def _pretrain(options: argparse.Namespace) -> Outcome:
    from longrope.config import PretrainStage, settings
    from longrope.pretrain import pretrain

    stage = settings(PretrainStage, options.settings)
    metrics = pretrain(
        stage.model,
        stage.corpus,
        options.name,
        stage.original_window,
        stage.seed,
        options.out,
        options.state,
    )
    return Outcome(metrics, [options.state / "metrics.jsonl"], [options.out / "training.json"])


def build_parser() -> argparse.ArgumentParser:
    """Every sub-command with its options."""
    parser = argparse.ArgumentParser(
        prog="longrope", description="Longer context windows by searched RoPE rescale factors."
    )
    parser.add_argument("--version", action="version", version=f"longrope {__version__}")
    parser.add_argument("--log", type=Path, help="also write what is printed to this file")
    parser.set_defaults(stage=None)
    stages = parser.add_subparsers(metavar="STAGE")

    stage = _stage(stages, "pretrain", _pretrain, "train a small model from nothing")
    stage.add_argument("--name", required=True)
    _files(stage, "--out", "--state")
    _settings(stage)
    return parser


def _stage(stages, name: str, run: Callable, help: str, tracked: bool = True):
    stage = stages.add_parser(name, help=help, description=help)
    stage.set_defaults(stage=name, run=run, tracked=tracked)
    return stage


def _files(stage: argparse.ArgumentParser, *flags: str) -> None:
    for flag in flags:
        stage.add_argument(flag, type=Path, required=True)


def _settings(stage: argparse.ArgumentParser) -> None:
    stage.add_argument(
        "--settings", required=True, metavar="JSON", help="this stage's slice of the configuration"
    )


@contextlib.contextmanager
def _logging_to(path: Path | None):
    """Write standard output and error to `path` as well, line by line."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        with (
            contextlib.redirect_stdout(_Tee(sys.stdout, log)),
            contextlib.redirect_stderr(_Tee(sys.stderr, log)),
        ):
            yield


class _Tee:
    """A text stream that writes to two; not a terminal, so that nothing draws bars on it."""

    def __init__(self, *streams) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._streams[0].fileno()


if __name__ == "__main__":
    sys.exit(main())
