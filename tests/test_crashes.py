"""
Every stage of a study, killed with signal 9 just before changes that it makes to the disk, and run
again: the results are, to the bit, those of a study that nobody disturbed. With Snakemake around
them, at any time, and far more often: tests/crashes/trial_kills.py.
"""

import random
import shlex
import signal
import subprocess
from collections import Counter
from pathlib import Path

import yaml

from forks import Forks
from micro import ROOT, configuration, make_place, snakemake
from same import everything

KILLS = 2  # of every job, each further into what it writes


def lean() -> dict:
    """The micro study with one of each kind of job, or of few."""
    config = configuration()
    micro = config["models"]["micro"]
    micro["tunings"] = {"longrope-256": micro["tunings"]["longrope-256"]}
    del micro["extension"]["search"]["1k"]
    del micro["variants"]
    tales, passkey = (micro["evaluation"][name] for name in ("tales", "passkey"))
    tales["windows"], passkey["prompts"] = {128: 2, 256: 2}, {256: 2}
    tales["methods"] = {"base": ["none", "search"], "longrope-256": ["extended"]}
    tales["shown_in"] = ["table06", "figure1", "summary", "searches"]
    passkey["methods"] = {"base": ["search"]}
    micro["evaluation"] = {"tales": tales, "passkey": passkey}
    return config


def commands(place: Path) -> list[list[str]]:
    """What the workflow runs, in an order that it may run it in, as words for `longrope`."""
    make_place(place)
    (place / "lean.yaml").write_text(yaml.safe_dump(lean()))
    asked = ("--cores", "1", "--dry-run", "--printshellcmds", "all", "export", "pretrain")
    command = snakemake(place, place / "lean.yaml", *asked)
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    lines = (listed.stdout + listed.stderr).splitlines()
    mark = "Shell command: exec longrope "
    return [shlex.split(line.removeprefix(mark)) for line in lines if line.startswith(mark)]


def test_every_stage_killed_while_it_writes_ends_in_the_same_results(tmp_path):
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    rng, kills = random.Random(4), Counter()
    todo = commands(quiet)
    make_place(killed)
    with Forks() as forks:
        for words in todo:
            code, changes = forks.run(quiet, words)
            assert code == 0 and changes > 2, (words, (quiet / "said.txt").read_text()[-2000:])
            for moment in sorted(rng.sample(range(1, changes + 1), KILLS)):
                ended = forks.run(killed, words, dies_at=moment)[0]
                assert ended in (0, -signal.SIGKILL), (killed / "said.txt").read_text()[-2000:]
                kills[stage_of(words)] += ended != 0
            assert forks.run(killed, words)[0] == 0, (killed / "said.txt").read_text()[-2000:]
    undisturbed = everything(quiet / "results")
    assert everything(killed / "results") == undisturbed and len(undisturbed) > 12
    assert all(kills[stage_of(words)] for words in todo), kills
    assert not list(killed.rglob("*.part"))


def stage_of(words: list[str]) -> str:
    """`search` of `--log FILE --processes 1 search ...`."""
    options = iter(words)
    return next(word for word in options if not word.startswith("--") or not next(options))
