"""
The record that the command line leaves of every stage it ran: a small JSON file, LOG.run.json.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import get_origin
from uuid import uuid4

from longrope.errors import UserError, unknown_name
from longrope.files import read_json, write_checked

SCHEMA = 1  # of *.run.json
AGAIN = "delete it and run its stage again"  # where a record is damaged
STATUS = {"finished": "FINISHED", "failed": "FAILED"}  # ours: MLflow's


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
