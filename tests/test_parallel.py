"""Several processes: the numbers of one, and an end with one message where a process fails."""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import DistNetworkError, PrefixStore, TCPStore

import ranks
from helpers import Killed, make_checkpoint, make_tokens
from longrope import job
from longrope.cli import main
from longrope.devices import gpu_of_this_process
from longrope.errors import UserError
from longrope.files import append_line
from longrope.parallel import launch, place, reasons
from longrope.parallel.place import Place
from longrope.parallel.pulse import Pulse, Silence
from longrope.parallel.reasons import Ended, cause_of, lost_another
from longrope.parallel.sequence import match_heads
from longrope.training import gradients, loop
from longrope.training.mixture import Batch

HERE = Path(__file__).parent
LAYOUTS = {"data": (2, 1), "sequence": (2, 2), "both": (4, 2)}  # ranks, and ranks a sequence


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A checkpoint and its tokens."""
    folder = tmp_path_factory.mktemp("inputs")
    make_checkpoint(folder)
    make_tokens(folder / "data").rename(folder / "tokens")
    return folder


@pytest.fixture(scope="module")
def one(inputs, tmp_path_factory) -> Path:
    """What one process makes."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("one")
    (folder / "measured.json").write_text(json.dumps(ranks.measure(folder, inputs)))
    return folder


@pytest.fixture(scope="module", params=LAYOUTS)
def two(request, one, inputs, tmp_path_factory) -> Path:
    """What several make: each with some sequences, or with half of some."""
    folder = tmp_path_factory.mktemp(request.param)
    processes, per_sequence = LAYOUTS[request.param]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [f"--nproc-per-node={processes}", HERE / "ranks.py", folder, inputs, per_sequence]
    done = subprocess.run(
        [*torchrun, *map(str, command)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def measured(folder: Path) -> dict:
    return json.loads((folder / "measured.json").read_text())


# --- the same numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ranks.HEADS)
def test_losses_of_every_number_of_heads_are_those_of_one_process(heads, one, two):
    expected, found = (measured(each)[f"losses {heads}"] for each in (one, two))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert measured(two)[f"predictions {heads}"] == measured(one)[f"predictions {heads}"]


@pytest.mark.parametrize("family", ranks.FAMILIES)
def test_losses_of_other_architectures_are_those_of_one_process(family, one, two):
    expected, found = (measured(each)[f"losses {family}"] for each in (one, two))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("model", ["loop", "tied"])
def test_losses_and_gradients_of_a_training_are_those_of_one_process(model, one, two):
    expected, found = (measured(each)[model] for each in (one, two))
    assert len(found) == 6
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("way", ranks.WAYS)
def test_every_way_of_tuning_ends_with_the_weights_of_one_process(way, one, two):
    expected, found = (measured(each)[f"tuning {way}"] for each in (one, two))
    weights = [load_file(each / way / "model/model.safetensors") for each in (one, two)]
    away = [(weights[1][name] - weights[0][name]).abs() for name in weights[0]]
    assert weights[0].keys() == weights[1].keys()
    if ranks.WAYS[way].get("precision") == "bfloat16":  # a sum of parts is rounded otherwise
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert max(float(each.mean()) for each in away) < 1e-3
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert max(float(each.max()) for each in away) < 1e-3


def test_a_search_finds_the_very_factors_of_one_process(one, two):
    expected, found = (json.loads((each / "search.json").read_text()) for each in (one, two))
    traces = [(each / "trace.jsonl").read_text().splitlines() for each in (one, two)]
    asked = [[json.loads(line)["mu"] for line in trace] for trace in traces]
    assert len(asked[0]) == 40 and asked[1] == asked[0]
    assert found["lambda"] == expected["lambda"] and found["n_hat"] == expected["n_hat"]
    fitness = [json.loads(trace[-1])["best_fitness"] for trace in traces]
    assert fitness[1] == pytest.approx(fitness[0], abs=1e-5)


def test_perplexity_and_passkeys_are_those_of_one_process(one, two):
    expected, found = (json.loads((each / "p.json").read_text()) for each in (one, two))
    for length, result in expected["results"].items():
        assert found["results"][length]["perplexity"] == pytest.approx(
            result["perplexity"], rel=1e-5
        )
    assert json.loads((two / "p-again.json").read_text()) == found  # killed within a length
    hashes = [[line["scored_sha256"] for line in each["records"]] for each in (expected, found)]
    assert hashes[0] == hashes[1] and len(hashes[0]) > 3  # the same tokens, in the same order
    answers = [json.loads((each / "k.json").read_text())["results"] for each in (one, two)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("heads", [(4, 2), (8, 2), (6, 3), (9, 3), (4, 1), (5, 5), (12, 4)])
@pytest.mark.parametrize("ranks_", [2, 3, 4])
def test_filled_up_heads_attend_as_before_and_can_be_dealt(heads, ranks_):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, 7, 4, generator=generator) for count in (heads[0], heads[1], heads[1])
    )
    attend = torch.nn.functional.scaled_dot_product_attention
    expected = attend(query, key, value, is_causal=True, enable_gqa=True)
    query, key, value = match_heads(query, key, value, ranks_)
    assert query.shape[1] % ranks_ == key.shape[1] % ranks_ == 0
    repeat = query.shape[1] // key.shape[1]
    parts = [  # each rank has queries and keys that belong together
        attend(part, *(each.repeat_interleave(repeat, 1) for each in theirs), is_causal=True)
        for part, *theirs in zip(*(x.chunk(ranks_, 1) for x in (query, key, value)), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, 1)[:, : heads[0]], expected)


# --- an end with one message, from which the next run goes on ----------------------------------

LIMIT = 300  # seconds, after which a run hangs, on a busy machine too
LONG = {"steps": 60, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def undisturbed(inputs, one, tmp_path_factory) -> list[float]:
    """The losses of the long tuning, in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(tuning(inputs, folder, processes=1)) == 0
    return losses_of(folder)


def losses_of(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics").read_text().splitlines()]


def tuning(inputs: Path, folder: Path, processes: int, rendezvous: str = "") -> list[str]:
    """The long tuning as the workflow asks for it; each process holds a part of every sequence. As
    one of two machines that have one process each, if they meet somewhere."""
    settings = {"method": "yarn", "window": 128, "batch": 2, "learning_rate": 0.001}
    mixture = {"mixture": {"text": 0.5, "word": 0.5}}
    stage = {"name": "full", "seed": 1, "tuning": settings | mixture | LONG}
    several = ("--processes", processes, "--per-sequence", processes, "--patience", 5)
    if rendezvous:
        several = ("--nodes", 2, "--rendezvous", rendezvous, "--per-sequence", 2, "--patience", 5)
    arguments = [
        *("--log", folder / "log", *several),
        *("finetune", "--model", inputs / "model", "--factors", inputs / "yarn.json"),
        *("--tokens", inputs / "tokens/train", "--out", folder / "model"),
        *("--metrics", folder / "metrics", "--state", folder / "state"),
        *("--settings", json.dumps(stage)),
    ]
    return list(map(str, arguments))


def start(inputs: Path, folder: Path, rendezvous: str = "", **more: str) -> subprocess.Popen:
    """Begin it in two processes, or the part of one machine of two."""
    asked = tuning(inputs, folder, processes=2, rendezvous=rendezvous)
    command = [sys.executable, "-m", "longrope.cli", *asked]
    return subprocess.Popen(command, env=environment() | more, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(folder: Path, running: subprocess.Popen) -> None:
    while not any(path.suffix == "" for path in (folder / "state").glob("step-*")):
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.01)


def process_of(rank: int, running: subprocess.Popen) -> int:
    """The pid of a rank."""
    mark = f"RANK={rank}".encode()
    (found,) = [
        pid
        for pid in children_of(running)
        if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]
    return found


def children_of(running: subprocess.Popen) -> list[int]:
    """The pids of what a process has started."""
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def test_a_killed_rank_ends_all_and_one_process_goes_on(inputs, undisturbed, tmp_path):
    running = start(inputs, tmp_path)
    wait_for_checkpoint(tmp_path, running)
    os.kill(process_of(1, running), signal.SIGKILL)
    said = running.communicate(timeout=LIMIT)[1]
    assert running.returncode == 1
    assert "rank 1 of 2 was killed by SIGKILL; run the stage again" in said
    assert "Traceback" not in said and "Error" not in said
    assert main(tuning(inputs, tmp_path, processes=1)) == 0
    assert "going on from" in (tmp_path / "log").read_text()
    np.testing.assert_allclose(losses_of(tmp_path), undisturbed, atol=1e-4)


def test_two_processes_go_on_from_what_one_has_done(inputs, undisturbed, tmp_path, monkeypatch):
    def kill(path: Path, record: dict) -> None:
        if record["step"] == 9:
            raise Killed
        append_line(path, record)

    monkeypatch.setattr(loop, "append_line", kill)
    assert main(tuning(inputs, tmp_path, processes=1)) == 70
    said = start(inputs, tmp_path).communicate(timeout=LIMIT)[1]
    assert "going on from" in said
    np.testing.assert_allclose(losses_of(tmp_path), undisturbed, atol=1e-4)


def test_a_rank_that_stops_answering_ends_all_once_patience_is_over(inputs, one, tmp_path):
    running = start(inputs, tmp_path)
    wait_for_checkpoint(tmp_path, running)
    waits, stopped = process_of(0, running), process_of(1, running)
    os.kill(stopped, signal.SIGSTOP)
    ended = time.monotonic() + LIMIT
    while Path(f"/proc/{waits}/exe").exists():
        assert time.monotonic() < ended
        time.sleep(0.1)
    os.kill(stopped, signal.SIGKILL)  # as torch does 30 s later
    said = running.communicate(timeout=LIMIT)[1]
    assert running.returncode == 1 and "a rank of 2 did not answer for 5 s" in said
    assert "Traceback" not in said


def start_two_machines(inputs: Path, folder: Path) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [start(inputs, folder, rendezvous=address) for _ in range(2)]


def test_where_a_rank_of_one_machine_is_killed_the_other_points_to_it_and_both_go_on(
    inputs, undisturbed, tmp_path
):
    machines = start_two_machines(inputs, tmp_path)
    wait_for_checkpoint(tmp_path, machines[0])
    (pid,) = children_of(machines[0])
    os.kill(pid, signal.SIGKILL)
    said = [each.communicate(timeout=LIMIT)[1] for each in machines]
    assert [each.returncode for each in machines] == [1, 1], said
    assert re.search("rank . of 2 was killed by SIGKILL; run the stage again", said[0])
    assert re.search("another of 2 machines has ended|a rank of 2 was lost", said[1])
    assert "did not meet" not in said[1] and "Traceback" not in said[1]
    machines = start_two_machines(inputs, tmp_path)
    said = "".join(each.communicate(timeout=LIMIT)[1] for each in machines)
    assert [each.returncode for each in machines] == [0, 0], said
    assert "going on from" in said
    np.testing.assert_allclose(losses_of(tmp_path), undisturbed, atol=1e-4)


def test_ranks_end_with_the_process_that_watches_over_them(inputs, one, tmp_path):
    running = start(inputs, tmp_path)
    wait_for_checkpoint(tmp_path, running)
    pids = [process_of(rank, running) for rank in range(2)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # busy for hours
    running.kill()
    running.communicate()
    ended = time.monotonic() + LIMIT
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
        assert time.monotonic() < ended
        time.sleep(0.1)


FULL = """
import os
if os.environ.get("RANK") == "1":
    import torch
    silu, calls = torch.nn.functional.silu, []
    def full(*arguments, **more):
        calls.append(1)
        if len(calls) > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return silu(*arguments, **more)
    torch.nn.functional.silu = full
"""  # what every Python runs first, if it is called sitecustomize


def test_memory_that_ends_on_one_rank_of_a_sequence_is_said_once(inputs, one, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FULL)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    running = start(inputs, tmp_path, PYTHONPATH=path)
    said = running.communicate(timeout=LIMIT)[1]
    assert running.returncode == 1 and said.count("longrope finetune: out of memory at") == 1
    assert "models.tiny.tunings.full.lora" in said and said.endswith("(rank 1 of 2)\n")
    assert "Traceback" not in said and "again in pieces" not in said


def test_a_full_disk_is_said_once_and_leaves_the_last_checkpoint(inputs, one, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(small)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        running = start(inputs, small)
        wait_for_checkpoint(small, running)
        with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1 << 12))
        said = running.communicate(timeout=LIMIT)[1]
        assert running.returncode == 1 and "No space left on device" in said
        assert said.count("longrope finetune:") == 1 and "Traceback" not in said
        assert [path for path in small.glob("state/step-*") if (path / ".metadata").exists()]
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- why it ended -----------------------------------------------------------------------------


def report(message: str, lost: bool = False, code: int = 1, at: int = 0) -> Ended:
    return Ended(code, {"message": {"message": message}, "code": code, "lost": lost}, at)


TORCH_ENDED = Ended(-signal.SIGTERM)
WAITED = report("RuntimeError: Timed out waiting 5000ms for recv", lost=True)
GUESS = "This is typically caused by a remote worker hanging or bugs in the application. GLHF!"
CAUSES = {  # name -> how each rank of four ended, what is said, exit code
    "bad input on all": ({rank: report("no such file") for rank in range(4)}, "no such file", 1),
    "bad input on one": ({0: TORCH_ENDED, 2: report("bad")}, "bad (rank 2 of 4)", 1),
    "bad input, and what came of it": (
        {0: report("a bug", code=70, at=9), 2: report("bad", at=7), 3: TORCH_ENDED},
        "bad (rank 2 of 4)",
        1,
    ),
    "killed, another did not end by SIGTERM": (
        {0: Ended(-9, at=17), 1: TORCH_ENDED, 3: Ended(-11, at=7)},
        "rank 3 of 4 was killed by SIGSEGV",
        1,
    ),
    "a bug": ({1: report("Traceback\nKeyError", code=70), 3: WAITED}, "(rank 1 of 4)", 70),
    "killed": ({0: TORCH_ENDED, 3: Ended(-9)}, "rank 3 of 4 was killed by SIGKILL", 1),
    "killed, others lost it": (
        {1: report("gloo: Connection closed by peer", lost=True), 3: Ended(-9)},
        "rank 3 of 4 was killed by SIGKILL",
        1,
    ),
    "crashed, another aborted": (
        {0: Ended(-6), 2: Ended(-11)},
        "rank 2 of 4 was killed by SIGSEGV",
        1,
    ),
    "aborted, as another was stopped": (
        {0: Ended(-6, at=7), 1: Ended(-9, at=17)},
        "rank 0 of 4 ended by SIGABRT",
        1,
    ),
    "aborted": ({2: Ended(-6), 3: TORCH_ENDED}, "rank 2 of 4 ended by SIGABRT", 1),
    "silent": ({0: WAITED, 1: Ended(-9)}, "a rank of 4 did not answer for 5 s", 1),
    "no sign of life": (
        {
            0: report("longrope search: rank 1 showed no sign of life for 5 s", lost=True),
            1: Ended(-9),
        },
        "did not answer for 5 s (longrope search: rank 1 showed no sign of life for 5 s)",
        1,
    ),
    "lost, in gloo's words": (
        {0: report(f"RuntimeError: [/a/gloo/pair.cc:537] Read error. {GUESS}", lost=True)},
        "a rank of 4 was lost (RuntimeError: Read error); run the stage again",
        1,
    ),
    "on another machine": ({0: TORCH_ENDED, 1: TORCH_ENDED}, "a rank of 4 was lost;", 1),
}


@pytest.mark.parametrize(("ended", "said", "code"), CAUSES.values(), ids=CAUSES)
def test_one_message_says_why_it_ended(ended, said, code):
    message, found = cause_of(ended, 4, "search", 5)
    assert said in message and found == code
    assert code == 70 or message.count("\n") == 0


def test_what_torch_calls_a_lost_connection_is_no_error_of_the_rank_s_own():
    assert lost_another(DistNetworkError("failed to recv, got 0 bytes"))
    assert not lost_another(RuntimeError("failed to recv, got 0 bytes"))


def test_a_machine_that_the_first_one_cannot_be_reached_from_says_so(monkeypatch, capsys):
    monkeypatch.setattr(launch, "MEETING", 1)
    with socket.socket() as nobody:  # a port that is taken, and nobody answers
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        flags = f"--nodes 2 --rendezvous {address} --patience 2".split()
        stage = "search --model m --tokens t --out o --trace t --state s --settings {}".split()
        assert main([*flags, *stage]) == 1
    said = capsys.readouterr().err
    assert f"2 machines did not meet at {address}" in said and "Traceback" not in said
    assert len(said.splitlines()) == 1


def test_a_failure_of_another_rank_than_the_first_leaves_a_record(monkeypatch, tmp_path):
    monkeypatch.setattr(job, "launch", lambda options, arguments: 1)
    log = tmp_path / "logs/search.log"
    stage = "search --model m --tokens t --out o --trace t --state s --settings {}".split()
    assert main(["--log", str(log), "--processes", "2", *stage]) == 1
    record = json.loads(log.with_suffix(".run.json").read_text())
    assert (record["status"], record["stage"]) == ("failed", "search")


def test_what_torch_says_at_more_length_is_not_printed():
    import torch.distributed.launcher.api  # noqa: F401

    launch._quiet()
    agent = logging.getLogger("torch.distributed.elastic.agent.server.api")
    assert not agent.isEnabledFor(logging.ERROR)


def test_a_step_of_slurm_takes_nothing_but_the_job_from_the_environment(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execvpe", lambda *all_: started.append(all_))
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SRUN_"))]:
        monkeypatch.delenv(name)
    left = {"SLURM_NTASKS_PER_GPU": "1", "SLURM_CPU_BIND": "mask_cpu:0x1", "SRUN_DEBUG": "3"}
    for name, value in ({"SLURM_JOB_ID": "7"} | left).items():
        monkeypatch.setenv(name, value)
    stage = "search --model m --tokens t --out o --trace t --state s --settings {}".split()
    main(["--nodes", "2", *stage])
    ((program, command, environment),) = started
    assert program == "srun" and command[-len(stage) :] == stage
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--overlap"} < set(command)
    slurm = {name for name in environment if name.startswith(("SLURM_", "SRUN_"))}
    assert slurm == {"SLURM_JOB_ID"} and environment["PATH"] == os.environ["PATH"]


# --- signs of life ------------------------------------------------------------------------------


@pytest.fixture
def pulses():
    store = TCPStore("127.0.0.1", 0, 1, is_master=True)
    found = [Pulse(PrefixStore("pulse", store), rank, 2, patience=0.6) for rank in range(2)]
    yield found
    for each in found:
        each.end()


def test_a_busy_rank_is_waited_for_beyond_patience(pulses):
    began = time.monotonic()
    late = threading.Timer(2.0, pulses[1].meet)
    late.start()
    pulses[0].meet()
    assert time.monotonic() - began > 1.5
    late.join()


def test_no_rank_leaves_before_all_have_done_their_part(pulses, monkeypatch):
    monkeypatch.setattr(place, "_here", Place(rank=1, world=2, pulse=pulses[1]))
    leaving = threading.Thread(target=place.leave)
    leaving.start()
    leaving.join(1.5)
    assert leaving.is_alive()  # rank 0 still writes
    pulses[0].meet()
    leaving.join(10)
    assert not leaving.is_alive() and place.here() == Place()


def test_a_rank_without_signs_of_life_is_not(pulses):
    pulses[1].end()
    with pytest.raises(Silence, match=r"rank 1 showed no sign of life for 0\.6 s"):
        pulses[0].meet()


class Mute:
    """A store that stands still."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def clone(self) -> "Mute":
        return self

    def add(self, key: str, count: int) -> int:
        self.end.wait()
        return 0


def test_a_rank_whose_store_stands_still_gives_up():
    store, gave_up, said = Mute(), threading.Event(), []

    def give_up(silence: Silence) -> None:
        said.append(str(silence))
        gave_up.set()

    pulse = Pulse(store, 0, 2, patience=0.4, give_up=give_up)
    assert gave_up.wait(10)
    assert said == ["the store that all meet in showed no sign of life for 0.4 s"]
    store.end.set()
    pulse.end()


def test_a_rank_whose_store_answers_does_not_give_up():
    store, said = TCPStore("127.0.0.1", 0, 1, is_master=True), []
    pulse = Pulse(PrefixStore("pulse", store), 0, 1, patience=0.4, give_up=said.append)
    time.sleep(1.5)
    pulse.end()
    assert not said


@pytest.mark.parametrize("torch_ends", [True, False])
def test_where_torch_does_not_end_after_a_failure_the_watching_process_does(
    torch_ends, monkeypatch, tmp_path, capsys
):
    codes, over = [], threading.Event()
    monkeypatch.setattr(launch, "ENDING", 0.5)
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setenv("RANK", "3")
    (tmp_path / "attempt_0/1").mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_0/1/error.json"))
    silence = Silence("the store that all meet in showed no sign of life for 5 s")
    reasons.leave_report("search", silence, str(silence))
    if torch_ends:
        over.set()
    options = argparse.Namespace(processes=2, nodes=2, stage="search", patience=5)
    launch._end_anyway(tmp_path, options, over)
    said = capsys.readouterr().err
    assert codes == ([] if torch_ends else [1])
    assert ("a rank of 4 did not answer for 5 s (longrope search: the store" in said) != torch_ends


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "stage", "said"),
    [
        (
            "--processes 2",
            "derive yarn --window 1k --model m --out o",
            "derive runs in one process",
        ),
        ("--processes 3 --per-sequence 2", "search", "3 processes cannot be grouped by 2"),
        ("--per-sequence 8", "search", "1 processes cannot be grouped by 8"),
        ("--nodes 2", "search", "start the same command on every node with --rendezvous"),
    ],
)
def test_what_cannot_run_so_is_refused_before_anything_starts(
    flags, stage, said, capsys, monkeypatch
):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if stage == "search":
        stage += " --model m --tokens t --out o --trace t --state s --settings {}"
    assert main([*flags.split(), *stage.split()]) == 1
    assert said in capsys.readouterr().err


def test_sequences_that_the_teams_cannot_share_are_refused(monkeypatch):
    batch = Batch(np.zeros((3, 7), int), np.ones((3, 7)), ("text",) * 3)
    monkeypatch.setattr(gradients, "here", lambda: Place(world=2))
    with pytest.raises(UserError, match=r"3 sequences of 7 tokens, which 2 teams .* cannot"):
        gradients.share([batch])


def test_a_stage_for_one_process_is_refused_as_a_rank_of_several(monkeypatch, capsys):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main("derive pi --window 1k --model m --out o".split()) == 1
    assert "derive runs in one process" in capsys.readouterr().err


def test_the_gpus_that_are_leased_keep_the_names_that_they_are_visible_by(monkeypatch):
    monkeypatch.setattr(launch, "lease_several", lambda count: [1, 0][:count])
    monkeypatch.setattr(launch, "leasing", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-3")
    monkeypatch.setenv("LONGROPE_LEASES", "/tmp")
    launch._lease(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-3,2"


def test_threads_are_those_of_the_whole_command(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # as Snakemake sets it
    assert [launch.threads_of_each(processes) for processes in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(launch, "cores", lambda: 6)
    assert launch.threads_of_each(2) == 3


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="this machine has 1 GPUs"):
        place.join()


@pytest.mark.parametrize("leases", ["/tmp", "none"])
def test_more_processes_than_gpus_are_refused(leases, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LONGROPE_LEASES", leases)
    with pytest.raises(UserError, match="--processes 2: this machine has 1 GPUs, one for each"):
        launch._lease(2)


def test_a_rank_takes_the_gpu_of_its_number_and_leases_none(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGROPE_LEASES", str(tmp_path / "leases"))
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert gpu_of_this_process() == 1
    assert not (tmp_path / "leases").exists()
