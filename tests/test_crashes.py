"""
Every stage of a study, killed with signal 9 just before a change that it makes to the disk, then
with a disk that is full from some moment on, and run again: the results are, to the bit, those of
a study that nobody disturbed. With Snakemake around them, at any time, and far more often:
tests/crashes/trial_kills.py.
"""

import errno
import random
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from forks import Forks
from longrope.logs import logging_to
from longrope.mending import what_to_mend
from micro import commands, make_place, stage_of
from same import everything


def test_every_stage_killed_while_it_writes_ends_in_the_same_results(tmp_path):
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    rng, kills, full = random.Random(4), Counter(), Counter()
    todo = commands(quiet)
    make_place(killed)
    with Forks() as forks:
        for words in todo:
            code, changes = forks.run(quiet, words)
            assert code == 0 and changes > 2, (words, said_in(quiet))
            moments = [rng.randint(1, changes) for _ in range(2)]
            ended = forks.run(killed, words, dies_at=moments[0])[0]
            assert ended in (0, -signal.SIGKILL), said_in(killed)
            kills[stage_of(words)] += ended != 0
            ended, said = forks.run(killed, words, full_at=moments[1])[0], said_in(killed)
            assert ended in (0, 1) and "Traceback" not in said, (words, said)
            full[stage_of(words)] += ended != 0
            told = [line for line in said.splitlines() if line.startswith("longrope")]
            assert len(told) == ended and all("No space left" in line for line in told), said
            assert forks.run(killed, words)[0] == 0, said_in(killed)
    undisturbed = everything(quiet / "results")
    assert everything(killed / "results") == undisturbed and len(undisturbed) > 12
    assert all(kills[stage_of(words)] for words in todo), kills
    assert sum(full.values()) > len(todo) / 2, full
    assert not list(killed.rglob("*.part"))


def said_in(folder: Path) -> str:
    """What commands have said there since the last look."""
    said = (folder / "said.txt").read_text()
    (folder / "said.txt").unlink()
    return said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no room on the disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no room on the disk"),
        (OSError(errno.EFBIG, "File too large"), "no room on the disk"),
        # As safetensors says it, which writes by itself.
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no room on the disk"),
        (OSError(errno.EROFS, "Read-only file system", "a.json"), "a.json.* does not allow it"),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), "a.json.* does not allow"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_a_disk_refuses_is_no_bug(error, said):
    message = what_to_mend(error)
    assert re.search(said, message) and str(error) in message and "\n" not in message
    later = ValueError("while that was handled")
    later.__context__ = error
    assert (what_to_mend(later) is None) == ("allow" in said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file on a full disk, of Linux")
def test_a_log_that_the_disk_has_no_room_for_ends_and_the_stage_goes_on(capfd):
    with logging_to(Path("/dev/full")):
        for number in range(10_000):
            print(number)
    said = capfd.readouterr()
    assert said.out.splitlines()[-1] == "9999"
    assert said.err.startswith("the log ends here: /dev/full: [Errno 28] No space left")
    assert len(said.err.splitlines()) == 1
