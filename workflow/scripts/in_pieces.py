"""
Run a study in pieces of some minutes, where a command or a job may take no longer.

    python workflow/scripts/in_pieces.py --minutes 9 --cores all             piece after piece
    python workflow/scripts/in_pieces.py --minutes 9 --once --cores all      one piece a call

Everything else goes to snakemake as it is. When the minutes are over, snakemake and its jobs get
SIGINT, as from Ctrl-C: each job saves what it has under results/state, a training once its step is
done, and the next piece goes on from there. What has not ended `--grace` seconds later is killed,
which loses no more than a crash.

Exit codes: 0 the study is done; 75 it is not, call again (--once); 76 a piece left nothing to go on
from, as it is too short; 130 interrupted by the user; any other is snakemake's own, as when a job
fails.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

AGAIN, TOO_SHORT = 75, 76  # 75 is EX_TEMPFAIL of sysexits.h
CUT = None  # a piece that its time ended
SNAKEMAKE = (sys.executable, "-m", "snakemake")


def main() -> int:
    """Pieces until the study is done, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=9, help="of a piece (9)")
    parser.add_argument("--grace", type=float, default=30, help="seconds to save and end (30)")
    parser.add_argument("--once", action="store_true", help="one piece; 75: there is more to do")
    options, arguments = parser.parse_known_args()
    # A shell without job control starts `command &` deaf to SIGINT, and its children with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = place_of(arguments)
    while True:
        before = kept(place / "results")
        code = piece(arguments, place, 60 * options.minutes, options.grace)
        if code is not CUT:
            return code
        print(f"in_pieces: {options.minutes:g} minutes are over", file=sys.stderr)
        if kept(place / "results") == before:
            print(
                "in_pieces: they left nothing new to go on from in results/: one window, or one"
                " step with what is before it, takes longer; give a piece more --minutes, or a"
                " training more --grace",
                file=sys.stderr,
            )
            return TOO_SHORT
        if options.once:
            return AGAIN


def piece(arguments: list[str], place: Path, seconds: float, grace: float) -> int | None:
    """Run snakemake for so long; its exit code, or CUT."""
    # A group of its own, so that the jobs get the signals, too.
    running = subprocess.Popen([*SNAKEMAKE, *arguments, "--rerun-incomplete"], process_group=0)
    try:
        return running.wait(seconds)
    except subprocess.TimeoutExpired:
        return CUT
    finally:
        if running.poll() is None:
            end(running, grace)
            if any((place / ".snakemake/locks").glob("*")):  # its own, as it had begun to work
                unlock(arguments)


def end(running: subprocess.Popen, grace: float) -> None:
    """Interrupt a process and its group, and kill what then does not end."""
    with contextlib.suppress(ProcessLookupError):  # the group has ended
        os.killpg(running.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(grace)
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def unlock(arguments: list[str]) -> None:
    """Take away the lock that a killed snakemake left."""
    done = subprocess.run([*SNAKEMAKE, *arguments, "--unlock"], capture_output=True, text=True)
    if done.returncode:
        print(f"in_pieces: cannot unlock the folder:\n{done.stderr[-2000:]}", file=sys.stderr)


def place_of(arguments: list[str]) -> Path:
    """Where snakemake works: its --directory."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--directory", "-d", type=Path, default=Path())
    return parser.parse_known_args(arguments)[0].directory


def kept(folder: Path) -> dict[Path, int]:
    """What another piece goes on from: results and progress, by size; no drafts or locks, and not
    the log of a training, which without a checkpoint begins again."""
    return {
        path: path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and ".part" not in str(path)
        if path.suffix != ".lock" and path.name != "metrics.jsonl"
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
