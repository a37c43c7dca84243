"""
Every stage of a study, killed with signal 9 just before a change that it makes to the disk, then
with a disk that is full from some moment on, and run again: the results are, to the bit, those of
a study that nobody disturbed. With Snakemake around them, at any time, and far more often:
tests/crashes/trial_kills.py.
"""

import random
import signal
from collections import Counter
from pathlib import Path

from forks import Forks
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
