"""
Putting run records into an MLflow store, each exactly once, however often it is called or killed.
"""

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from longrope.errors import UserError, one_line
from longrope.tracking.records import STATUS, RunRecord, read_record
from longrope.tracking.store import PLACE, RUN_ID, import_mlflow, log_to, numbers_of, open_store

SYNCED = "longrope.synced"  # the tag that is set last of all
ARTIFACT_LIMIT = 16 * 2**20  # bytes; a larger file stays where it is
TEXT_LIMIT, KEY_LIMIT = 6000, 250  # characters that MLflow takes


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did, in records."""

    added: int  # put into the store now
    present: int  # complete in the store before
    failed: int  # broken, or not brought in: the next sync tries again

    def __str__(self) -> str:
        return f"MLflow: {self.added} runs added, {self.present} there before, {self.failed} failed"


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
            client, experiment_id = stack.enter_context(open_store(uri, experiment, records_under))
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
    every = import_mlflow().entities.ViewType.ALL  # deleted ones too
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
    log_to(client, run, params.items(), metrics)
    for path, folder in files:
        client.log_artifact(run, path, None if folder == "." else folder)
    client.set_terminated(run, status=STATUS[record.status], end_time=end)
    client.set_tag(run, SYNCED, "yes")


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
                points += numbers_of(record)
    return points


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
