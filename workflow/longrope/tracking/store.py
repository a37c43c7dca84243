"""
An MLflow store: opened by one process at a time, quick and quiet, and written to in few calls.
"""

import contextlib
import logging
import math
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from longrope.errors import UserError
from longrope.files import replacing

RUN_ID = "longrope.run_id"  # the tag by which a run is ours
PLACE = "longrope.log"  # tag of a live run: its log, without an ending, which no two share at once
PARAMS_A_CALL, METRICS_A_CALL = 100, 1000  # what MLflow takes
LOCK_SECONDS = 30  # that one process waits for another
CALL_SECONDS = 60  # a server that dribbles its answer may take so long over one
MLFLOW_SETTINGS = {  # unless set; by itself it waits minutes for a dead server, and phones home
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


def import_mlflow():
    """MLflow, told to be quick and quiet."""
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for each retry
    import mlflow

    return mlflow


@contextlib.contextmanager
def open_store(uri: str, experiment: str, folder: Path | None = None) -> Iterator[tuple]:
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
            open_client = import_mlflow().MlflowClient
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


def log_to(client, run: str, params=(), metrics=()) -> None:
    """Log (key, text) and (key, value, milliseconds, step) in as few calls as MLflow allows."""
    from mlflow.entities import Metric, Param

    params, metrics = [Param(*param) for param in params], [Metric(*each) for each in metrics]
    for first in range(0, len(params), PARAMS_A_CALL):
        client.log_batch(run, params=params[first : first + PARAMS_A_CALL])
    for first in range(0, len(metrics), METRICS_A_CALL):
        client.log_batch(run, metrics=metrics[first : first + METRICS_A_CALL])


def numbers_of(record: dict) -> list[tuple[str, float, int]]:
    """Key, value and step of every finite number in a record with a "step"."""
    numbers = {
        key: value
        for key, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    step = numbers.pop("step", None)
    return [] if step is None else [(key, value, int(step)) for key, value in numbers.items()]
