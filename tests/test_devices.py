"""GPUs by lease, with names in place of devices and real processes."""

import os
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from longrope import devices
from longrope.devices import lease, leasing
from longrope.errors import UserError
from longrope.models import checkpoint

HOLD = """
import sys, time
from pathlib import Path
from longrope import devices
devices.POLL = 0.05
folder, names, count = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3])
if count > 1:
    print(*devices.lease_several(count, folder, names), flush=True)
else:
    index, lock = devices.lease(names, folder)
    print(index, flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process that leases one of some devices, or several; returns it."""
    running = []

    def begin(names: str = "a,b", count: int = 1) -> subprocess.Popen:
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD, tmp_path / "locks", names, str(count)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def leased(process) -> int:
    return int(process.stdout.readline())


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("LONGROPE_LEASES", raising=False)
    monkeypatch.setattr(devices, "_held", [])


def test_processes_at_the_same_moment_take_devices_of_their_own(start):
    taken = [leased(process) for process in [start("a,b,c,d") for _ in range(4)]]
    assert sorted(taken) == [0, 1, 2, 3]


def test_who_finds_all_taken_says_so_once_and_goes_on_when_a_job_is_killed(start):
    first, second = start(), start()
    places = {leased(first): first, leased(second): second}
    third = start()
    waiting = third.stderr.readline()
    assert waiting.startswith("all 2 GPUs are leased to other jobs") and waiting.count("\n") == 1
    time.sleep(0.3)
    places[1].send_signal(signal.SIGKILL)
    assert leased(third) == 1
    third.kill()
    assert third.stderr.read() == ""


def test_who_wants_several_gets_them_in_turn_and_waits_for_one_that_is_taken(start):
    assert leased(start("c")) == 0
    running = [start("a,b,c", count=2) for _ in range(2)]  # each could take what the other lacks
    for _ in range(2):
        (ready, *_), *_ = select.select([each.stdout for each in running], [], [], 30)
        (first,) = [each for each in running if each.stdout is ready]
        assert sorted(first.stdout.readline().split()) == ["0", "1"]
        running.remove(first)
        first.send_signal(signal.SIGKILL)


def test_a_device_is_the_same_whatever_its_place_among_the_visible(start):
    assert leased(start("a,b")) == 0
    assert leased(start("b,a")) == 0  # which is b
    assert leased(start("a,b,c")) == 2


def test_the_locks_are_for_all_users(tmp_path):
    _index, lock = lease(["a"], tmp_path / "locks")
    assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o777
    assert os.stat(lock.lock_file).st_mode & 0o666 == 0o666


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_set(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set LONGROPE_LEASES to a folder"):
        lease(["a"], tmp_path / "file")


def test_nothing_is_leased_where_told(monkeypatch):
    assert leasing()
    monkeypatch.setenv("LONGROPE_LEASES", "none")
    assert not leasing()


def test_models_go_to_the_leased_gpu_and_every_further_one_of_the_process_too(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("LONGROPE_LEASES", str(tmp_path))
    other = lease(["gpu-0"])  # of another job
    used = []
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_properties": lambda index: SimpleNamespace(uuid=f"gpu-{index}"),
        "set_device": used.append,
    }
    for name, fake in cuda.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    assert other[0] == 0
    assert checkpoint.device() == checkpoint.device() == torch.device("cuda", 1)
    assert used == [torch.device("cuda", 1)] * 2


def test_a_cpu_needs_no_lease(monkeypatch):
    monkeypatch.setattr(devices, "lease", None)
    assert checkpoint.device() == torch.device("cpu")
