"""What reaches MLflow, how often, and what happens when MLflow is in trouble."""

import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from longrope.errors import UserError
from longrope.files import read_json
from longrope.tracking import store
from longrope.tracking.live import LIVE_QUEUE, LiveRun
from longrope.tracking.records import RunRecord, read_record, write_record
from longrope.tracking.sync import ARTIFACT_LIMIT, SyncReport, sync

CLOSED = "http://127.0.0.1:9"  # nobody listens

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """One sqlite store, as making one takes seconds; every test has its own experiment in it."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def experiment(request):
    return request.node.name


@pytest.fixture
def silent_server():
    """The address of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def dribbling_server():
    """One that sends its answer byte by byte, so that no read of it ever takes long."""
    over = threading.Event()

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not over.wait(0.2):
                connection.sendall(b" ")

    def serve(server):
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=[server], daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()


def a_record(folder, steps=5, **changes):
    folder.mkdir(exist_ok=True)
    lines = [{"step": step, "loss": 4.0 - step / 1000, "kind": "best"} for step in range(steps)]
    (folder / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "factors.json").write_text('{"n_hat": 4}')
    values = {
        "stage": "search",
        "name": "tiny/base/search/1k",
        "status": "finished",
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 60.0,
        "params": {"seed": 1, "budget": {"evaluations": 100, "stop": [1, None]}},
        "metrics": {"loss": 1.25, "perplexity": float("inf")},
        "curves": [str(folder / "trace.jsonl")],
        "artifacts": [str(folder / "factors.json")],
        "tags": {"model": "tiny", "window": "1k"},
    }
    record = RunRecord(**values | changes)
    write_record(folder / f"{record.run_id}.run.json", record)
    return record


def runs_in(uri, experiment):
    client = mlflow.MlflowClient(uri)
    return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def assert_once_and_complete(uri, experiment, record, steps=5):
    client, (run,) = runs_in(uri, experiment)
    assert run.data.tags["longrope.run_id"] == record.run_id
    assert run.data.params["budget.evaluations"] == "100"
    assert run.data.metrics["loss"] == 1.25
    assert len(client.get_metric_history(run.info.run_id, "loss")) == steps + 1
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["factors.json"]
    assert run.info.status == "FINISHED"


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = a_record(tmp_path)
    assert read_record(tmp_path / f"{record.run_id}.run.json") == record


def test_everything_in_a_record_arrives(tmp_path, uri, experiment):
    record = a_record(tmp_path / "results", steps=2500)
    assert sync(tmp_path / "results", uri, experiment) == SyncReport(1, 0, 0)
    assert_once_and_complete(uri, experiment, record, steps=2500)
    client, (run,) = runs_in(uri, experiment)
    assert run.info.run_name == "tiny/base/search/1k"
    assert run.data.params == {
        "seed": "1",
        "budget.evaluations": "100",
        "budget.stop": "[1, null]",
    }
    tags = {
        "model": "tiny",
        "window": "1k",
        "longrope.stage": "search",
        "metrics.perplexity": "inf",
    }
    assert tags.items() <= run.data.tags.items()
    assert run.info.end_time - run.info.start_time == 60_000
    *curve, final = sorted(
        client.get_metric_history(run.info.run_id, "loss"), key=lambda point: point.timestamp
    )
    assert [point.step for point in curve] == list(range(2500))
    assert curve[1000].value == 3.0
    assert run.info.start_time <= curve[0].timestamp <= curve[-1].timestamp < run.info.end_time
    assert (final.value, final.step) == (1.25, 2499)
    file = Path(client.download_artifacts(run.info.run_id, "factors.json"))
    assert file.read_text() == '{"n_hat": 4}'


def test_a_second_sync_adds_nothing(tmp_path, uri, experiment):
    record = a_record(tmp_path / "results")
    sync(tmp_path / "results", uri, experiment)
    assert sync(tmp_path / "results", uri, experiment) == SyncReport(0, 1, 0)
    assert_once_and_complete(uri, experiment, record)


def test_an_incomplete_twin_of_a_complete_run_goes_with_the_next_sync(tmp_path, uri, experiment):
    record = a_record(tmp_path / "results")
    sync(tmp_path / "results", uri, experiment)
    client, (run,) = runs_in(uri, experiment)
    client.create_run(run.info.experiment_id, tags={"longrope.run_id": record.run_id})
    assert sync(tmp_path / "results", uri, experiment) == SyncReport(0, 1, 0)
    assert_once_and_complete(uri, experiment, record)


def test_a_complete_run_that_somebody_deleted_stays_deleted(tmp_path, uri, experiment):
    a_record(tmp_path / "results")
    sync(tmp_path / "results", uri, experiment)
    client, (run,) = runs_in(uri, experiment)
    client.delete_run(run.info.run_id)
    assert sync(tmp_path / "results", uri, experiment) == SyncReport(0, 1, 0)
    assert runs_in(uri, experiment)[1] == []


@pytest.mark.parametrize("call", ["log_batch", "log_artifact", "set_terminated", "set_tag"])
def test_a_sync_killed_at_any_call_is_completed_by_the_next(
    tmp_path, uri, experiment, monkeypatch, call
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    record = a_record(tmp_path / "results")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mlflow.MlflowClient, call, killed)
        sync(tmp_path / "results", uri, experiment)
    assert len(runs_in(uri, experiment)[1]) == 1
    assert sync(tmp_path / "results", uri, experiment) == SyncReport(1, 0, 0)
    assert_once_and_complete(uri, experiment, record)


def test_a_failed_stage_shows_as_failed_with_its_error(tmp_path, uri, experiment):
    a_record(tmp_path / "results", status="failed", tags={"error": "out of memory"})
    sync(tmp_path / "results", uri, experiment)
    _, (run,) = runs_in(uri, experiment)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "out of memory")


def test_names_and_values_that_mlflow_refuses_are_adapted_visibly(tmp_path, uri, experiment):
    params = {"text": "x" * 7000, "lambda[0]": 1.5} | {f"p{i}": i for i in range(150)}
    a_record(tmp_path / "results", params=params, metrics={"loss@1k": 2.0})
    assert sync(tmp_path / "results", uri, experiment) == SyncReport(1, 0, 0)
    _, (run,) = runs_in(uri, experiment)
    assert run.data.params["text"].endswith("x [cut, 7000 characters in all]")
    assert run.data.params["lambda_0_"] == "1.5"
    assert run.data.metrics["loss_1k"] == 2.0
    assert len(run.data.params) == 152


def test_missing_and_large_files_are_left_out_with_a_message(tmp_path, uri, experiment):
    (tmp_path / "weights").write_bytes(bytes(ARTIFACT_LIMIT + 1))
    a_record(tmp_path / "results", curves=["gone.jsonl"], artifacts=["gone.json", "weights"])
    said = []
    assert sync(tmp_path / "results", uri, experiment, said.append) == SyncReport(1, 0, 0)
    for line, name in zip(said, ["gone.jsonl", "gone.json ", "weights"], strict=True):
        assert name in line


def test_files_of_the_same_name_are_told_apart_by_their_folders(tmp_path, uri, experiment):
    for name in ("1k", "2k"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trace.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    both = ["1k/trace.jsonl", "2k/trace.jsonl"]
    a_record(tmp_path / "results", curves=both, artifacts=both)
    sync(tmp_path / "results", uri, experiment)
    client, (run,) = runs_in(uri, experiment)
    assert {"1k/trace/loss", "2k/trace/loss"} <= run.data.metrics.keys()
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["1k", "2k"]


def test_a_curve_whose_last_line_was_cut_arrives_and_its_file_stays_as_it_is(
    tmp_path, uri, experiment
):
    text = '{"step": 1, "loss": 2.0}\n{"step": 2, "lo'
    (tmp_path / "cut.jsonl").write_text(text)
    a_record(tmp_path / "results", curves=["cut.jsonl"], metrics={})
    sync(tmp_path / "results", uri, experiment)
    _, (run,) = runs_in(uri, experiment)
    assert run.data.metrics == {"loss": 2.0}
    assert (tmp_path / "cut.jsonl").read_text() == text


def test_a_broken_record_is_named_and_the_others_arrive(tmp_path, uri, experiment):
    a_record(tmp_path / "results")
    (tmp_path / "results" / "half.run.json").write_text('{"schema": 1, "sta')
    said = []
    assert sync(tmp_path / "results", uri, experiment, said.append) == SyncReport(1, 0, 1)
    assert len(said) == 1 and "half.run.json" in said[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 9}, "schema 9"),
        ({"status": "done"}, "unknown status 'done': known are failed, finished"),
        ({"started": "yesterday"}, "yesterday"),
        ({"started": "2026-01-02T03:04:05"}, "offset"),
        ({"seconds": -1}, "seconds = -1"),
        ({"metrics": {"loss": "low"}}, "low"),
        ({"tags": ["tiny"]}, "must be a dict"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_record_that_breaks_a_rule_is_a_user_error(tmp_path, change, named):
    path = tmp_path / f"{a_record(tmp_path).run_id}.run.json"
    path.write_text(json.dumps(read_json(path) | change))
    with pytest.raises(UserError, match=named) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def test_a_record_that_mlflow_refuses_does_not_stop_the_others(tmp_path, uri, experiment):
    a_record(tmp_path / "results", run_id="0" * 32, name="first", params={"a//b": "no name"})
    record = a_record(tmp_path / "results")
    said = []
    assert sync(tmp_path / "results", uri, experiment, said.append) == SyncReport(1, 0, 1)
    assert len(said) == 1 and said[0].startswith("first is not synced")
    _, runs = runs_in(uri, experiment)
    (half,) = [run for run in runs if run.data.tags["longrope.run_id"] != record.run_id]
    assert "longrope.synced" not in half.data.tags


@pytest.mark.parametrize("kind", ["silent_server", "dribbling_server", "no server"])
def test_a_dead_server_costs_one_line_and_seconds(tmp_path, request, kind, monkeypatch):
    monkeypatch.setattr(store, "CALL_SECONDS", 3)
    server = request.getfixturevalue(kind) if kind.endswith("_server") else CLOSED
    a_record(tmp_path / "results")
    a_record(tmp_path / "results")
    said, began = [], time.monotonic()
    assert sync(tmp_path / "results", server, say=said.append) == SyncReport(0, 0, 2)
    assert time.monotonic() - began < 15
    assert len(said) == 1 and "\n" not in said[0]


def test_a_slow_store_ends_a_sync_after_its_seconds_and_the_next_one_goes_on(
    tmp_path, uri, experiment, monkeypatch
):
    for _ in range(3):
        a_record(tmp_path / "results")
    made, said = mlflow.MlflowClient.create_run, []

    def slowly(*arguments, **options):
        time.sleep(2)
        return made(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_run", slowly)
        report = sync(tmp_path / "results", uri, experiment, said.append, seconds=1)
    assert report.failed >= 2 and report.added + report.failed == 3
    assert len(said) == 1 and said[0].startswith(f"{report.failed} runs are left")
    assert sync(tmp_path / "results", uri, experiment).added == report.failed
    assert len(runs_in(uri, experiment)[1]) == 3


def test_a_store_that_dies_halfway_ends_the_sync_with_one_line(
    tmp_path, uri, experiment, monkeypatch
):
    def gone(*_, **__):
        raise ConnectionError("gone")

    for _ in range(3):
        a_record(tmp_path / "results")
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_artifact", gone)
        assert sync(tmp_path / "results", uri, experiment, said.append) == SyncReport(0, 0, 3)
    assert len(said) == 1
    assert sync(tmp_path / "results", uri, experiment) == SyncReport(3, 0, 0)
    assert len(runs_in(uri, experiment)[1]) == 3


def test_a_sync_without_mlflow_costs_one_line(tmp_path, monkeypatch):
    a_record(tmp_path / "results")
    monkeypatch.setitem(sys.modules, "mlflow", None)  # importing it now fails
    said = []
    assert sync(tmp_path / "results", say=said.append) == SyncReport(0, 0, 1)
    assert len(said) == 1 and "mlflow" in said[0]


def test_a_sync_that_finds_another_one_running_gives_up_with_one_line(
    tmp_path, uri, experiment, monkeypatch
):
    a_record(tmp_path / "results")
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    said = []
    with FileLock(uri.removeprefix("sqlite:///") + ".lock"):
        assert sync(tmp_path / "results", uri, experiment, said.append) == SyncReport(0, 0, 1)
    assert len(said) == 1 and "another sync is running" in said[0]


PATIENT = """
from pathlib import Path
from longrope.tracking import store
from longrope.tracking.sync import sync
store.LOCK_SECONDS = 300  # the machine may have more to do
"""


def in_a_process(code, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", PATIENT + code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_two_syncs_at_once_into_a_fresh_store_bring_each_run_once_and_say_nothing(tmp_path):
    records = [a_record(tmp_path / "results") for _ in range(3)]
    both = [in_a_process("sync(Path('results'))") for _ in range(2)]
    assert [process.communicate()[0] for process in both] == [b"", b""]
    _, runs = runs_in(f"sqlite:///{tmp_path}/mlflow.db", "longrope")
    found = sorted(run.data.tags["longrope.run_id"] for run in runs)
    assert found == sorted(record.run_id for record in records)
    assert (tmp_path / "mlruns").is_dir()  # artifacts, where `mlflow ui` finds them


def test_a_sync_killed_while_it_makes_the_store_does_not_break_it(tmp_path):
    record = a_record(tmp_path / "results")
    with in_a_process("sync(Path('results'))") as first:
        while first.poll() is None:
            sizes = [path.stat().st_size for path in tmp_path.glob("*.part")]
            sizes += [path.stat().st_size for path in tmp_path.glob("mlflow.db")]
            if max(sizes, default=0) > 200_000:  # a complete one has 900,000 bytes
                first.kill()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert sync(tmp_path / "results", uri) == SyncReport(1, 0, 0)
    assert_once_and_complete(uri, "longrope", record)


JOB = """
import os, sys, time
from datetime import datetime
import mlflow
from longrope.tracking.live import LiveRun
from longrope.tracking.records import RunRecord, write_record

number, place, end = sys.argv[1:]
name, began = f"logs/job-{place}", datetime.now().astimezone().isoformat()
record = RunRecord("finetune", name, "finished", began, 1.0, run_id=number, metrics={"loss": 1.0})
if end == "killed":  # as soon as MLflow has the run
    mlflow.MlflowClient.log_batch = lambda *_, **__: os.kill(os.getpid(), 9)
with LiveRun(record.run_id, record.name) as live:
    for step in range(10):
        live.log({"step": step, "loss": 1.0})
    if end == "killed":
        time.sleep(300)
write_record(Path(f"{name}.run.json"), record)
"""


def test_eight_jobs_at_once_into_a_fresh_sqlite_two_of_them_killed_arrive_once_each(
    tmp_path, monkeypatch
):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ends = ["killed"] * 2 + ["well"] * 6
    jobs = [in_a_process(JOB, f"first-{n}", str(n), end) for n, end in enumerate(ends)]
    said = [job.communicate()[0].decode() for job in jobs]
    assert [job.returncode for job in jobs] == [-9, -9, *[0] * 6], said
    again = [in_a_process(JOB, f"second-{n}", str(n), "well") for n in range(2)]
    assert [job.wait() for job in again] == [0, 0]
    assert sync(tmp_path / "logs", uri) == SyncReport(8, 0, 0)
    assert sync(tmp_path / "logs", uri) == SyncReport(0, 8, 0)
    _, runs = runs_in(uri, "longrope")
    found = sorted((run.data.tags["longrope.run_id"], run.info.status) for run in runs)
    expected = [(f"first-{n}", "FINISHED") for n in range(2, 8)]
    expected += [(f"first-{n}", "KILLED") for n in range(2)]
    expected += [(f"second-{n}", "FINISHED") for n in range(2)]
    assert found == sorted(expected)


def test_the_module_imports_neither_mlflow_nor_torch():
    with in_a_process("import sys; print({'mlflow', 'torch'} & sys.modules.keys())") as process:
        assert process.communicate()[0] == b"set()\n"


def test_a_live_run_arrives_as_it_goes_and_sync_completes_it(
    tmp_path, uri, experiment, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    record = a_record(tmp_path / "results")
    with LiveRun(record.run_id, record.name, experiment) as live:
        for step in range(5):
            live.log({"step": step, "loss": 4.0 - step, "kind": "best"})
    _, (run,) = runs_in(uri, experiment)
    assert (run.data.metrics["loss"], run.info.status) == (0.0, "FINISHED")
    assert sync(tmp_path / "results", uri, experiment) == SyncReport(1, 0, 0)
    assert_once_and_complete(uri, experiment, record)


def test_a_live_run_with_a_dead_server_never_waits_to_log_and_five_seconds_to_leave(
    silent_server, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    gc.collect()  # of what hundreds of tests left it takes a second, and none follows at once
    with LiveRun("1" * 32, "tiny/base/finetune/1k", say=lambda line: None) as live:
        began = time.monotonic()
        for step in range(2 * LIVE_QUEUE):
            live.log({"step": step, "loss": 1.0})
        logged = time.monotonic()
    assert logged - began < 1
    assert time.monotonic() - logged < 6


def test_a_live_run_ends_at_the_first_failure_with_one_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", CLOSED)  # fails at once
    said = []
    with LiveRun("1" * 32, "tiny/base/finetune/1k", say=said.append) as live:
        for step in range(100):
            live.log({"step": step, "loss": 1.0})
            time.sleep(0.01)
    assert len(said) == 1 and "live tracking ends here" in said[0]


def test_a_live_run_does_nothing_without_a_tracking_uri(tmp_path):
    threads = threading.active_count()
    with LiveRun("1" * 32, "tiny/base/finetune/1k") as live:
        live.log({"step": 1, "loss": 1.0})
        assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []
