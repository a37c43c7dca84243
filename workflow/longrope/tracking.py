"""
Run records, and how they get into MLflow.

A stage never talks to MLflow. The command line leaves one record of every executed stage, a small
JSON file, and `sync` puts all of them into an MLflow store, each exactly once, however often it is
called or killed. `LiveRun` mirrors a long training while it runs. Whatever is wrong with the store
costs one line, never an exception or a long wait. MLflow is imported only when needed.
"""

import contextlib
import json
import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import get_origin
from uuid import uuid4

from longrope.errors import UserError, one_line, unknown_name
from longrope.files import read_json, replacing, write_checked

SCHEMA = 1  # of *.run.json
AGAIN = "delete it and run its stage again"  # where a record is damaged
STATUS = {"finished": "FINISHED", "failed": "FAILED"}  # ours: MLflow's
RUN_ID, SYNCED = "longrope.run_id", "longrope.synced"  # tags; the second is set last of all
PLACE = "longrope.log"  # tag of a live run: its log, without an ending, which no two share at once
ARTIFACT_LIMIT = 16 * 2**20  # bytes; a larger file stays where it is
TEXT_LIMIT, KEY_LIMIT = 6000, 250  # characters that MLflow takes
PARAMS_A_CALL, METRICS_A_CALL = 100, 1000  # what MLflow takes
LOCK_SECONDS, CLOSE_SECONDS = 30, 5  # waits: for another sync, for the last live metrics
CALL_SECONDS = 60  # a server that dribbles its answer may take so long over one
LIVE_QUEUE = 10_000  # steps; what comes while it is full is left to `sync`
MLFLOW_SETTINGS = {  # unless set; by itself it waits minutes for a dead server, and phones home
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One execution of one stage."""

    stage: str  # the command: search, finetune, ...
    name: str  # what the run is called: tiny/base/search/1k
    status: str  # finished | failed
    started: str  # ISO 8601 with its offset from UTC
    seconds: float  # how long it took
    params: dict = field(default_factory=dict)  # settings, nested as they are
    metrics: dict[str, float] = field(default_factory=dict)  # final values
    curves: list[str] = field(default_factory=list)  # .jsonl files: numbers by "step"
    artifacts: list[str] = field(default_factory=list)  # files
    tags: dict[str, str] = field(default_factory=dict)  # model, window, version, host, error, ...
    run_id: str = field(default_factory=lambda: uuid4().hex)  # one per execution

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, kind = getattr(self, entry.name), get_origin(entry.type) or entry.type
            if not isinstance(value, int | float if kind is float else kind):
                raise UserError(f"{entry.name} = {value!r}: must be a {kind.__name__}")
        if self.status not in STATUS:
            raise unknown_name("status", self.status, STATUS)
        if datetime.fromisoformat(self.started).tzinfo is None:
            raise UserError(f"started = {self.started!r}: needs its offset, +00:00 for UTC")
        if not 0 <= self.seconds < math.inf:
            raise UserError(f"seconds = {self.seconds!r}: must be a number >= 0")

    @property
    def span(self) -> tuple[int, int]:
        """Start and end in milliseconds since 1970, as MLflow counts."""
        start = datetime.fromisoformat(self.started).timestamp()
        return round(start * 1000), round((start + self.seconds) * 1000)


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did, in records."""

    added: int  # put into the store now
    present: int  # complete in the store before
    failed: int  # broken, or not brought in: the next sync tries again

    def __str__(self) -> str:
        return f"MLflow: {self.added} runs added, {self.present} there before, {self.failed} failed"


def write_record(path: Path, record: RunRecord) -> None:
    """Write a record; `sync` finds it if `path` ends in .run.json."""
    text = json.dumps({"schema": SCHEMA, **asdict(record)}, default=str)  # paths become strings,
    write_checked(path, json.loads(text, parse_constant=str))  # infinities too


def read_record(path: Path) -> RunRecord:
    """Read a record; UserError naming the file and what is wrong with it."""
    values = read_json(path, AGAIN)
    try:
        if (schema := values.pop("schema", None)) != SCHEMA:
            raise UserError(f"schema {schema!r}: this version reads schema {SCHEMA}")
        values["metrics"] = {key: float(value) for key, value in values["metrics"].items()}
        return RunRecord(run_id=values.pop("run_id"), **values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = error if isinstance(error, UserError) else repr(error)
        raise UserError(f"{path}: not a run record ({why}); {AGAIN}") from None


def sync(
    records_under: Path,
    uri: str | None = None,
    experiment: str = "longrope",
    say: Callable[[str], None] = print,
    seconds: float = math.inf,
) -> SyncReport:
    """Bring every `*.run.json` below a folder into MLflow that is not there yet.

    The store is `uri`, else MLFLOW_TRACKING_URI, else mlflow.db in the current folder. A run that
    a killed sync or a live mirror left incomplete is deleted and made again; one that somebody
    deleted after it was complete stays deleted. What a killed job left running is marked so once
    the job has been run again. After so many `seconds` no further run is begun.
    """
    ends = time.monotonic() + seconds
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"
    records, places, added, broken = {}, {}, 0, 0
    for path in sorted(Path(records_under).rglob("*.run.json")):
        try:
            record = read_record(path)
            records[record.run_id] = record
            places[str(path.resolve()).removesuffix(".run.json")] = record
        except UserError as error:
            broken += 1
            say(f"not synced: {error}")
    if not records:
        return SyncReport(0, 0, broken)
    with contextlib.ExitStack() as stack:
        try:
            client, experiment_id = stack.enter_context(_store(uri, experiment, records_under))
            complete, incomplete = _runs(client, experiment_id)
            for run in _killed(incomplete, records, places):
                client.set_terminated(run.info.run_id, status="KILLED")
        except Exception as error:  # MLflow's back ends raise anything: SQL, HTTP, imports
            say(f"nothing synced: {one_line(error)}")
            return SyncReport(0, 0, len(records) + broken)
        new = records.keys() - complete
        for run_id, record in records.items():
            if time.monotonic() > ends:
                left = len(new) - added
                say(f"{left} runs are left: `longrope sync` goes on (stopped after {seconds:g} s)")
                break
            # our own part, outside of the try: an exception in it is a bug
            contents = _contents(record, say) if run_id in new else None
            try:
                for run in incomplete.get(run_id, []):  # a call that timed out may also leave one
                    client.delete_run(run.info.run_id)
                if contents:
                    _upload(client, experiment_id, record, *contents)
                    added += 1
            except Exception as error:
                say(f"{record.name} is not synced: {one_line(error)}")
                if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                    break  # not this record's fault: each further one might wait for a dead server
    return SyncReport(added, len(records) - len(new), len(new) - added + broken)


class LiveRun:
    """Mirrors the metrics of a running stage into MLflow, if MLFLOW_TRACKING_URI is set.

    A daemon thread does it, so `log` never waits; the first failure ends it with one line, and
    leaving waits five seconds at most. What it loses comes with `sync`, which replaces this run by
    the complete one of the same `run_id`.
    """

    def __init__(
        self, run_id: str, name: str, experiment: str = "longrope", say: Callable = print
    ) -> None:
        self._tags = {RUN_ID: run_id, "mlflow.runName": name, PLACE: str(Path(name).resolve())}
        self._experiment, self._say = experiment, say
        self._queue: queue.SimpleQueue = queue.SimpleQueue()  # metrics of a step; at last a status
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "LiveRun":
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            with contextlib.suppress(Exception):  # the thread will meet it again, and say so
                _import_mlflow()  # not in the thread: two imports at once can break
            self._thread = threading.Thread(target=self._mirror, args=[uri], daemon=True)
            self._thread.start()
        return self

    def log(self, record: dict) -> None:
        """Mirror the numbers of a record that has a "step"."""
        if self._thread and self._thread.is_alive() and self._queue.qsize() < LIVE_QUEUE:
            now = round(time.time() * 1000)
            self._queue.put([(key, value, now, step) for key, value, step in _numbers(record)])

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread:
            self._queue.put(STATUS["finished" if kind is None else "failed"])
            self._thread.join(CLOSE_SECONDS)

    def _mirror(self, uri: str) -> None:
        try:
            with _store(uri, self._experiment) as (client, experiment_id):
                run = client.create_run(experiment_id, tags=self._tags).info.run_id
            while isinstance(entry := self._queue.get(), list):
                _log(client, run, metrics=entry)
            client.set_terminated(run, status=entry)
        except Exception as error:  # whatever it is, the stage goes on
            self._say(f"live tracking ends here: {one_line(error)}")


def _import_mlflow():
    """MLflow, told to be quick and quiet."""
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for each retry
    import mlflow

    return mlflow


@contextlib.contextmanager
def _store(uri: str, experiment: str, folder: Path | None = None) -> Iterator[tuple]:
    """A client and the experiment's id, for one process at a time.

    The lock lies beside a sqlite file, which parallel first uses would break; else in `folder`.
    """
    from filelock import FileLock, Timeout

    lock, place = folder and Path(folder, ".sync.lock"), None  # a server has its place of artifacts
    if sqlite := re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri):
        database = Path(sqlite[1]).resolve()
        database.parent.mkdir(parents=True, exist_ok=True)
        lock, place = Path(f"{database}.lock"), (database.parent / "mlruns").as_uri()
    try:
        with FileLock(lock, timeout=LOCK_SECONDS) if lock else contextlib.nullcontext():
            open_client = _import_mlflow().MlflowClient
            if sqlite and not database.exists():  # a kill while it is made would leave it broken
                with replacing(database) as draft:
                    open_client(f"sqlite:///{draft}").get_experiment("0")
            client = open_client(uri) if sqlite else _Hasty(open_client(uri))
            found = client.get_experiment_by_name(experiment)
            if found and found.lifecycle_stage == "deleted":
                raise UserError(f"the experiment {experiment!r} is deleted: restore it in MLflow")
            new = None if found else client.create_experiment(experiment, place)
            yield client, new or found.experiment_id
    except Timeout:
        raise UserError(f"another sync is running (it holds {lock})") from None


class _Hasty:
    """A client whose calls fail once they have taken too long, even if something still comes."""

    def __init__(self, client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable:
        call, answers = getattr(self._client, name), queue.SimpleQueue()

        def run(arguments, options) -> None:
            try:
                answers.put((call(*arguments, **options), None))
            except Exception as error:  # raised again below, where it is waited for
                answers.put((None, error))

        def hasty(*arguments, **options):
            threading.Thread(target=run, args=[arguments, options], daemon=True).start()
            try:
                answer, error = answers.get(timeout=CALL_SECONDS)
            except queue.Empty:
                raise TimeoutError(f"no whole answer within {CALL_SECONDS} s") from None
            if error:
                raise error
            return answer

        return hasty


def _killed(incomplete: dict[str, list], records: dict, places: dict[str, RunRecord]) -> list:
    """The live runs of killed jobs: they seem to run, but the job was begun anew later."""
    return [
        run
        for run_id, runs in incomplete.items()
        for run in runs
        if run_id not in records and run.info.status == "RUNNING"
        if (later := places.get(run.data.tags.get(PLACE, "")))
        if run.info.start_time < later.span[0]
    ]


def _runs(client, experiment_id: str) -> tuple[set[str], dict[str, list]]:
    """Our ids of the runs that are complete; of the others, our ids with the runs."""
    complete, incomplete, page = set(), {}, None
    every = _import_mlflow().entities.ViewType.ALL  # deleted ones too
    while page != "":
        some = client.search_runs([experiment_id], "", every, 200, page_token=page)
        for run in some:
            run_id = run.data.tags.get(RUN_ID)
            if run.data.tags.get(SYNCED) == "yes":
                complete.add(run_id)
            elif run.info.lifecycle_stage == "active":
                incomplete.setdefault(run_id, []).append(run)
        page = some.token or ""
    return complete, incomplete


def _contents(record: RunRecord, say: Callable[[str], None]) -> tuple[dict, list, list]:
    """Params, metrics and files for MLflow; says which files are left out."""
    params = {_key(key): _cut(text) for key, text in _flat(record.params)}
    (start, end), metrics, files = record.span, [], []
    for path, name in _below_common_folder(record.curves):
        prefix = f"{name.with_suffix('')}/" if len(record.curves) > 1 else ""
        points = _curve(path)
        if not points:
            say(f"{record.name}, left out: {path} is missing or has no numbers by step")
        for index, (key, value, step) in enumerate(points):  # times are not kept: spread evenly
            at = start + (end - start) * index // len(points)
            metrics.append((_key(prefix + key), value, at, step))
    finite = {key: value for key, value in record.metrics.items() if math.isfinite(value)}
    # MLflow calls the value of the highest step the current one: that is the final value.
    last = max((step for *_, step in metrics), default=0)
    metrics += [(_key(key), value, end + 1, last) for key, value in finite.items()]
    for path, name in _below_common_folder(record.artifacts):
        if not (path.is_file() and os.access(path, os.R_OK)):
            say(f"{record.name}, left out: {path} is no readable file")
        elif (size := path.stat().st_size) > ARTIFACT_LIMIT:
            say(f"{record.name}, left out: {path} has {size / 2**20:.1f} MiB, 16 is the limit")
        else:
            files.append((str(path), str(name.parent)))
    return params, metrics, files


def _upload(client, experiment_id, record: RunRecord, params: dict, metrics, files) -> None:
    """Make a run; the tag that calls it complete comes last."""
    start, end = record.span
    # MLflow would show an infinite metric as 1.8e308: it stays readable as a tag.
    odd = {f"metrics.{k}": v for k, v in record.metrics.items() if not math.isfinite(v)}
    tags = {_key(key): _cut(str(value)) for key, value in (record.tags | odd).items()}
    tags |= {RUN_ID: record.run_id, "longrope.stage": record.stage, "mlflow.runName": record.name}
    run = client.create_run(experiment_id, start_time=start, tags=tags).info.run_id
    _log(client, run, params.items(), metrics)
    for path, folder in files:
        client.log_artifact(run, path, None if folder == "." else folder)
    client.set_terminated(run, status=STATUS[record.status], end_time=end)
    client.set_tag(run, SYNCED, "yes")


def _log(client, run: str, params=(), metrics=()) -> None:
    """Log (key, text) and (key, value, milliseconds, step) in as few calls as MLflow allows."""
    from mlflow.entities import Metric, Param

    params, metrics = [Param(*param) for param in params], [Metric(*each) for each in metrics]
    for first in range(0, len(params), PARAMS_A_CALL):
        client.log_batch(run, params=params[first : first + PARAMS_A_CALL])
    for first in range(0, len(metrics), METRICS_A_CALL):
        client.log_batch(run, metrics=metrics[first : first + METRICS_A_CALL])


def _below_common_folder(paths: list[str]) -> list[tuple[Path, Path]]:
    """Each path, and what tells it from the others: the part below the folder they share."""
    full = [Path(str(path)).absolute() for path in paths]
    return [(path, path.relative_to(os.path.commonpath([p.parent for p in full]))) for path in full]


def _curve(path: Path) -> list[tuple[str, float, int]]:
    """The numbers of a .jsonl file; unlike `read_lines` it never touches a file that may grow."""
    points = []
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        for line in file:  # up to one that a kill cut short
            if isinstance(record := json.loads(line), dict):
                points += _numbers(record)
    return points


def _numbers(record: dict) -> list[tuple[str, float, int]]:
    """Key, value and step of every finite number in a record with a "step"."""
    numbers = {
        key: value
        for key, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    step = numbers.pop("step", None)
    return [] if step is None else [(key, value, int(step)) for key, value in numbers.items()]


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def _key(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w .:/-]", "_", name, flags=re.ASCII)[:KEY_LIMIT].strip("/.") or "_"


def _cut(text: str) -> str:
    mark = f" [cut, {len(text)} characters in all]"
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - len(mark)] + mark
