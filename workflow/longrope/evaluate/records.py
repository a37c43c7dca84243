"""
The records that evaluations write, and the loop that makes them.

One file holds one task, one checkpoint and one method at all of its lengths: `protocol`, `model`,
`factors` by length, `results` by length, and the `records` that they are made of. Every length that
is done, and within one every window or batch of prompts, is kept in the state directory: a killed
evaluation, or one that is asked for one length more, only does what is missing.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longrope import __version__
from longrope.errors import UserError
from longrope.evaluation_file import SCHEMA
from longrope.extended import Tiers, make_tiers, read_tiers
from longrope.factors import RescaleFactors
from longrope.files import (
    append_line,
    fingerprint,
    resume_lines,
    sha256_of,
    write_checked,
)
from longrope.models.checkpoint import ModelRecord, device, precision_of, read_record
from longrope.parallel.place import here
from longrope.progress import Progress
from longrope.state import open_state
from longrope.windows import window_label


def tiers_of(paths: Iterable[Path], record: ModelRecord) -> Tiers:
    """All the factors in some files (factors.json or extended.json), for one model."""
    return make_tiers([each for path in paths for each in read_tiers(path, record.rope).factors])


def factors_at(tiers: Tiers, length: int) -> RescaleFactors:
    """The factors that an evaluation uses at a length: those of its tier, or, beyond the last
    window, those of the last. What an unextended model or one table of factors does there is just
    what tables compare with."""
    return tiers.longest if length > tiers.longest.window else tiers.for_length(length)


@dataclass(frozen=True, slots=True)
class Task:
    """What is measured, of which checkpoint, with which factors."""

    name: str  # perplexity, passkey, ruler
    evaluation: str  # what the configuration calls it
    method: str
    model_folder: Path
    tiers: Tiers
    lengths: dict[int, int]  # how much is measured at each: windows, or prompts
    protocol: dict  # what the measure at every length depends on
    version: int  # of the stage
    # What else the record says of the protocol. It follows from the lengths, so what was done at
    # others stays valid.
    aside: dict = field(default_factory=dict)


class Progressed:
    """What is done, by a key of what it was made from, and the file that keeps it: the records of a
    length, or what a unit of it gave. All ranks know the same, rank 0 writes."""

    def __init__(self, path: Path) -> None:
        def resume() -> dict[str, Any]:
            try:
                return {line["key"]: line["records"] for line in resume_lines(path)}
            except (KeyError, TypeError):
                raise UserError(
                    f"{path}: a line of it is no progress of an evaluation; delete {path.parent},"
                    " what it keeps is measured again"
                ) from None

        self._path, self._known = path, here().once(resume)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, key: str, done: Any) -> None:
        self._known[key] = done
        if here().leads:
            append_line(self._path, {"key": key, "records": done})


class Units:
    """The work of one length, kept unit by unit: at 2048k a single one may take hours.

    What a unit gives must be JSON, and must depend only on the task's protocol and the length.
    """

    def __init__(self, progressed: Progressed, key: str, title: str) -> None:
        self._progressed, self._key, self._title = progressed, key, title

    def deal(self, items: Sequence, run: Callable[[Any], Any]) -> list:
        """`run(item)` of every item, in their order, of those only that are not done yet.

        All ranks must call it. They do a round of one item a team, and then exchange what it gave.
        """
        place = here()
        keys = [fingerprint([self._key, number, len(items)]) for number in range(len(items))]
        missing = [at for at, key in enumerate(keys) if key not in self._progressed]
        finished = len(items) - len(missing)
        progress = Progress(self._title, len(items), finished)
        for first in range(0, len(missing), place.teams):
            round_ = missing[first : first + place.teams]
            made = place.deal([items[at] for at in round_], run)
            for at, done in zip(round_, made, strict=True):
                self._progressed.add(keys[at], done)
            finished += len(round_)
            progress.update(finished)
        progress.close()
        return [self._progressed[key] for key in keys]

    def once(self, name: str, run: Callable[[], Any]) -> Any:
        """What `run()` gives, unless the unit of this name is done: for who asks one at a time."""
        key = fingerprint([self._key, name])
        if key not in self._progressed:
            self._progressed.add(key, run())
        return self._progressed[key]


def evaluate_lengths(
    task: Task,
    measure: Callable[[int, RescaleFactors, Units], list[dict]],
    summarise: Callable[[list[dict]], dict],
    out: Path,
    state: Path,
) -> dict[str, dict]:
    """Run `measure` at every length not done yet, and write the file of all records; returns the
    results by length.

    `summarise` makes one result of the records of a length. All ranks call it, and `measure` with
    it; rank 0 writes.
    """
    record, runs_in = read_record(task.model_folder), conditions(task.model_folder)
    place = here()
    guard = {"version": task.version, "protocol": task.protocol}
    progressed = Progressed(place.once(lambda: open_state(state, guard)) / "records.jsonl")
    what = f"{task.name} {record.rope.model}/{record.weights} {task.method}"
    records, used, results = [], {}, {}
    for length, amount in sorted(task.lengths.items()):
        factors, label = factors_at(task.tiers, length), window_label(length)
        used[label] = {"window": factors.window} | what_they_do(factors)
        key = fingerprint([runs_in, identity_of(factors), length, amount])
        if key not in progressed:
            units = Units(progressed, key, f"{what} {label}")
            progressed.add(key, measure(length, factors, units))
        records += progressed[key]
        results[label] = summarise(progressed[key])
    if not place.leads:
        return results
    write_checked(
        out,
        {
            "schema": SCHEMA,
            "task": task.name,
            "evaluation": task.evaluation,
            "model": record.rope.model,
            "weights": record.weights,
            "weights_fingerprint": record.fingerprint,
            "original_window": record.rope.original_window,
            "method": task.method,
            "protocol": task.protocol | task.aside,
            "amounts": {window_label(length): amount for length, amount in task.lengths.items()},
            "factors": used,
            "results": results,
            "records": records,
            "longrope": __version__,
            "version": task.version,
            "ran_in": runs_in,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
    )
    return results


def conditions(model_folder: Path) -> dict[str, str]:
    """What of a checkpoint and the machine a value depends on, beside the factors."""
    import torch
    import transformers

    record = read_record(model_folder)
    return {
        "weights": record.fingerprint,
        "config_sha256": sha256_of(Path(model_folder) / "config.json"),
        "precision": precision_of(record),
        "device": device().type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def what_they_do(factors: RescaleFactors) -> dict:
    """What a record says of factors, but for their window."""
    return {
        "method": factors.method,
        "attention_factor": factors.attention_factor,
        "n_hat": factors.n_hat,
        "fingerprint": identity_of(factors),
    }


def identity_of(factors: RescaleFactors) -> str:
    """A hash of what the factors do, whatever they are called."""
    lambda_ = [str(value) for value in factors.lambda_]
    return fingerprint([lambda_, factors.n_hat, factors.attention_factor])
