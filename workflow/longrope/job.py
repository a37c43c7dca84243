"""
What surrounds every stage that the command line runs: its log, its record, its exit code.

Whatever a stage prints also goes to `--log FILE`, and beside that file a record of the run (`FILE`
with the ending .run.json) is written for `longrope sync`, also where the stage fails.
"""

import argparse
import os
import sys
import traceback

from longrope.logs import logging_to, reader_is_gone, silent
from longrope.mending import what_to_mend
from longrope.parallel.launch import check_spreads, end_with_watcher, launch
from longrope.parallel.place import here, join, leave
from longrope.parallel.reasons import leave_report
from longrope.secret import hidden
from longrope.state import release_states
from longrope.tracking.run import Began, Outcome, content_of, leave_record, record_path


def run_stage(options: argparse.Namespace) -> int:
    """Run `options.run`; 0 = done, 1 = the user can mend it, 70 = a bug, 130 = interrupted.

    BrokenPipeError where nobody reads what it prints."""
    try:
        _recorded(options)
    except KeyboardInterrupt:
        print(f"longrope {options.stage}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            raise
        if (said := what_to_mend(error)) is None:
            print(hidden(traceback.format_exc()), end="", file=sys.stderr)
            return 70
        print(f"longrope {options.stage}: {said}", file=sys.stderr)
        return 1
    return 0


def run_several(options: argparse.Namespace, arguments: list[str]) -> int:
    """The same in several processes, over which this one watches. Rank 0 leaves the record; where
    another one failed and took it along, it is left here."""
    path, began = record_path(options), Began()
    before = content_of(path)
    code = launch(options, arguments)
    if code and path and content_of(path) == before:
        tags = {"error": f"exit code {code}; the log says why"}
        leave_record(options, path, began, "failed", Outcome(), tags)
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


def _recorded(options: argparse.Namespace) -> None:
    """Run the stage; with --log, leave a record of the run beside the log, also if it fails."""
    path = record_path(options)
    if path is None or not here().leads:
        try:
            options.run(options)
        finally:
            release_states()
        return
    began, outcome, tags, status = Began(), Outcome(), {}, "failed"
    try:
        if "settings" in options:
            from longrope.reading import settings_text

            options.settings = settings_text(options.settings)  # read once, for stage and record
        outcome = options.run(options) or outcome
        status = "finished"
    except BaseException as error:
        tags["error"] = hidden(f"{type(error).__name__}: {error}")[:500]
        raise
    finally:
        release_states()
        leave_record(options, path, began, status, outcome, tags)
