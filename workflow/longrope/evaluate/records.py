"""
The records that evaluations write, and the loop that makes them.

One file holds one task, one checkpoint and one method at all of its lengths: `protocol`, `model`,
`factors` by length, `results` by length, and the `records` that they are made of. A length that is
done is kept in the state directory, so a killed evaluation, or one that is asked for one length
more, only does what is missing.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from longrope import __version__
from longrope.extended import Tiers, make_tiers, read_tiers
from longrope.factors import RescaleFactors
from longrope.files import (
    append_line,
    fingerprint,
    open_state,
    resume_lines,
    sha256_of,
    write_json,
)
from longrope.models import ModelRecord, device, precision_of, read_record
from longrope.parallel.place import here
from longrope.progress import Progress
from longrope.windows import window_label

SCHEMA = 2


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


def evaluate_lengths(
    task: Task,
    measure: Callable[[int, RescaleFactors], list[dict]],
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

    def resume() -> tuple[Path, dict]:
        done = open_state(state, {"version": task.version, "protocol": task.protocol})
        done = done / "records.jsonl"
        return done, {line["key"]: line["records"] for line in resume_lines(done)}

    done, known = place.once(resume)
    what = f"{task.name} {record.rope.model}/{record.weights} {task.method}"
    progress = Progress(what, len(task.lengths))
    records, used, results = [], {}, {}
    for number, (length, amount) in enumerate(sorted(task.lengths.items()), 1):
        factors = factors_at(task.tiers, length)
        used[window_label(length)] = {"window": factors.window} | what_they_do(factors)
        key = fingerprint([runs_in, identity_of(factors), length, amount])
        if key not in known:
            known[key] = measure(length, factors)
            if place.leads:
                append_line(done, {"key": key, "records": known[key]})
        records += known[key]
        results[window_label(length)] = summarise(known[key])
        progress.update(number, f"{window_label(length)} done")
    progress.close()
    if not place.leads:
        return results
    write_json(
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
            "protocol": task.protocol,
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
