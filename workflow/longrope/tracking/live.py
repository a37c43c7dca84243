"""
A running stage mirrored into an MLflow store.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from longrope.errors import one_line
from longrope.tracking.records import STATUS
from longrope.tracking.store import PLACE, RUN_ID, import_mlflow, log_to, numbers_of, open_store

CLOSE_SECONDS = 5  # that leaving waits for the last metrics
LIVE_QUEUE = 10_000  # steps; what comes while it is full is left to `sync`


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
                import_mlflow()  # not in the thread: two imports at once can break
            self._thread = threading.Thread(target=self._mirror, args=[uri], daemon=True)
            self._thread.start()
        return self

    def log(self, record: dict) -> None:
        """Mirror the numbers of a record that has a "step"."""
        if self._thread and self._thread.is_alive() and self._queue.qsize() < LIVE_QUEUE:
            now = round(time.time() * 1000)
            self._queue.put([(key, value, now, step) for key, value, step in numbers_of(record)])

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread:
            self._queue.put(STATUS["finished" if kind is None else "failed"])
            self._thread.join(CLOSE_SECONDS)

    def _mirror(self, uri: str) -> None:
        try:
            with open_store(uri, self._experiment) as (client, experiment_id):
                run = client.create_run(experiment_id, tags=self._tags).info.run_id
            while isinstance(entry := self._queue.get(), list):
                log_to(client, run, metrics=entry)
            client.set_terminated(run, status=entry)
        except Exception as error:  # whatever it is, the stage goes on
            self._say(f"live tracking ends here: {one_line(error)}")
