"""The folder of a stage's progress: of which inputs it is, and that one process has it."""

import json
import subprocess
import sys
import time

import pytest

from longrope import state
from longrope.errors import UserError
from longrope.state import open_state, release_states


def silent(_: str) -> None:
    pass


def tree(folder) -> list[str]:
    """Every file below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_progress_of_the_same_inputs_is_taken_up_again(tmp_path):
    folder = open_state(tmp_path / "state", {"seed": 1}, silent)
    (folder / "progress").write_text("half way")
    assert open_state(tmp_path / "state", {"seed": 1}, pytest.fail) == folder
    assert (folder / "progress").read_text() == "half way"


def test_progress_of_other_inputs_is_emptied_and_said_so(tmp_path):
    said = []
    folder = open_state(tmp_path / "state", {"seed": 1}, pytest.fail)
    (folder / "deep").mkdir()
    (folder / "deep" / "progress").write_text("half way")
    open_state(tmp_path / "state", {"seed": 2}, said.append)
    assert list(tree(folder)) == ["made_from.json"]
    assert len(said) == 1
    assert str(folder) in said[0]
    open_state(tmp_path / "state", {"seed": 2}, pytest.fail)


def test_progress_that_nothing_vouches_for_is_emptied(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "progress").write_text("of what?")
    open_state(folder, {"seed": 1}, silent)
    assert list(tree(folder)) == ["made_from.json"]
    assert json.loads((folder / "made_from.json").read_text())["fingerprint"]


# --- one process at a time ------------------------------------------------------------------

HOLDS = """
import pathlib, sys, time, longrope.state as s
s.open_state(pathlib.Path(sys.argv[1]), {"seed": 1})
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path):
    """Starts another process that has the folder for so many seconds, and waits until it has."""
    started = []

    def hold(seconds: float) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDS, str(tmp_path / "state"), str(seconds)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield hold
    for each in started:
        each.kill()
        each.communicate()


def test_two_processes_never_work_in_one_folder(tmp_path, holder, monkeypatch, capsys):
    monkeypatch.setattr(state, "WAIT", 0.0)
    other = holder(600)
    with pytest.raises(UserError, match=rf"state: process {other.pid} on .* is at work there") as e:
        open_state(tmp_path / "state", {"seed": 2}, pytest.fail)
    assert "\n" not in str(e.value) and "wait until it is done, or end it" in str(e.value)
    assert (tmp_path / "state/made_from.json").exists()  # what the other works on is not emptied
    other.kill()
    other.wait()
    open_state(tmp_path / "state", {"seed": 1}, pytest.fail)  # a kill lets go of it


def test_a_process_that_is_about_to_end_is_waited_for(tmp_path, holder, monkeypatch, capsys):
    monkeypatch.setattr(state, "POLL", 0.05)
    holder(1.0)
    began = time.monotonic()
    open_state(tmp_path / "state", {"seed": 1}, pytest.fail)
    assert time.monotonic() - began > 0.2
    assert capsys.readouterr().err.count("waiting for process") == 1


def test_a_folder_is_free_again_once_the_stage_is_over(tmp_path, holder):
    open_state(tmp_path / "state", {"seed": 1}, silent)
    open_state(tmp_path / "state", {"seed": 1}, silent)  # its own process may come again
    release_states()
    holder(0.0)
