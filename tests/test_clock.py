"""A clock that jumps, as when a machine has woken up or its time was set: nothing waits for it, no
time that is noted is negative, and no result depends on it."""

import itertools
import json
import time

import pytest

from helpers import toy_search
from longrope.cli import main
from longrope.config.search import Evolution
from longrope.devices import lease
from longrope.files import resume_lines
from longrope.progress import Progress
from longrope.state import open_state, release_states

YEAR = 365 * 24 * 3600.0


@pytest.fixture
def jumping(monkeypatch):
    """Every look at the clock is a year before or years after the last."""
    real, jumps = time.time, itertools.cycle([0.0, -YEAR, 3 * YEAR])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))


def test_a_search_finds_the_same_and_notes_no_negative_time(jumping, tmp_path, monkeypatch):
    settings = Evolution(name="evolution", population=8, mutations=4, crossovers=4, parents=4)
    jumped = toy_search(settings, tmp_path / "jumped.jsonl", 60)
    monkeypatch.undo()
    assert toy_search(settings, tmp_path / "plain.jsonl", 60) == jumped
    lines = resume_lines(tmp_path / "jumped.jsonl")
    assert len(lines) == 60 and all(0 <= line["seconds"] < 600 for line in lines)


def test_a_run_record_has_the_seconds_that_passed(jumping, tmp_path):
    log, nowhere = tmp_path / "logs/derive.log", str(tmp_path / "nowhere")
    words = ["derive", "yarn", "--window", "1k", "--model", nowhere, "--out", nowhere]
    assert main(["--log", str(log), *words]) == 1  # a record is left all the same
    assert 0 <= json.loads(log.with_suffix(".run.json").read_text())["seconds"] < 600


def test_locks_and_leases_are_neither_stuck_nor_given_twice(jumping, tmp_path):
    began = time.monotonic()
    _, held = lease(["a", "b"], tmp_path / "leases")
    at, other = lease(["a", "b"], tmp_path / "leases")
    assert at == 1 and held.is_locked and other.is_locked
    open_state(tmp_path / "state", {})
    release_states()
    assert time.monotonic() - began < 30


def test_progress_goes_on_being_shown(jumping, capsys):
    progress = Progress("search", 3)
    for done in (1, 2, 3):
        progress.update(done)
    said = capsys.readouterr().err
    assert "3/3" in said and "-" not in said.replace("->", "")
