"""
Making an entry of published factors from results: nothing in it is copied by hand.

Every record must have been measured on the weights that are named, with these very factors at each
length, and there must be a perplexity at every window; else there is no entry.
"""

import re
from pathlib import Path

from longrope import __version__
from longrope.catalogue import FOLDER, SCHEMA
from longrope.config.base import BASE, NAME
from longrope.errors import UserError
from longrope.evaluate.records import factors_at, identity_of, tiers_of
from longrope.evaluation_file import read_evaluation
from longrope.extended import Tiers
from longrope.factors import record_of_factors
from longrope.files import read_json, sha256_of, write_json
from longrope.models.checkpoint import read_record
from longrope.windows import parse_window, window_label

KEPT = (
    "evaluation", "task", "method", "weights_fingerprint", "factors", "protocol", "results",
    "ran_in", "version", "longrope",
)  # fmt: skip


def publish(
    name: str,
    about: str,
    model: Path,
    factors: list[Path],
    records: list[Path],
    command: str,
    out: Path | None = None,
) -> Path:
    """Write an entry; by default into the installed package, where `longrope factors` finds it and
    none is replaced."""
    if not re.fullmatch(NAME, name):
        raise UserError(f"--name {name!r}: letters, digits, dots and dashes only")
    if out is None:
        out = Path(__file__).parent / FOLDER / f"{name}.json"
        if out.exists():
            raise UserError(f"--name {name}: is published already; take another, or name an --out")
    of_model = read_record(model)
    tiers = tiers_of(factors, of_model)
    measured = [_measured(path, of_model.fingerprint, tiers) for path in records]
    known = {
        parse_window(label)
        for each in measured
        if each["task"] == "perplexity"
        for label in each["results"]
    }
    if lacking := [each.window for each in tiers.factors if each.window not in known]:
        raise UserError(
            f"--records: an entry needs a measured perplexity at every window, there is none at"
            f" {', '.join(map(window_label, lacking))}; name its record"
        )
    write_json(
        out,
        {
            "schema": SCHEMA,
            "name": name,
            "about": about,
            "model": tiers.rope.model,
            "weights": of_model.weights,
            "weights_fingerprint": of_model.fingerprint,
            # An entry carries factors; tuned weights are nowhere unless somebody puts them there.
            **({} if of_model.weights == BASE else {"weights_published": False}),
            "source": of_model.public_source,
            "factors": [record_of_factors(each) for each in tiers.factors],
            "measured": measured,
            "made_with": {"command": command, "longrope": __version__},
        },
    )
    return out


def _measured(path: Path, weights: str, tiers: Tiers) -> dict:
    """A record without its single documents or trials; UserError if it is of something else."""
    record = read_evaluation(path)
    if record.get("weights_fingerprint") != weights:
        raise UserError(
            f"{path}: measured on weights {record.get('weights_fingerprint')}, these factors are"
            f" published for {weights}"
        )
    for label, used in record["factors"].items():
        factors = factors_at(tiers, parse_window(label))
        if used["fingerprint"] != identity_of(factors):
            raise UserError(f"{path}: at {label} it was measured with other factors than these")
    kept = {key: record[key] for key in KEPT if key in record}
    return kept | {"commit": commit_of(path), "record_sha256": sha256_of(path)[:16]}


def commit_of(record: Path) -> str:
    """The commit of the code that made a record, from the log of its run; empty without one.

    results/MODEL/WEIGHTS/evaluation/NAME/METHOD.json is logged in
    logs/MODEL/WEIGHTS/evaluation/NAME-METHOD.run.json.
    """
    parts = record.resolve().parts
    if len(parts) < 6 or parts[-6] != "results":
        return ""
    _, model, weights, _, name, method = parts[-6:]
    run = f"{name}-{method.removesuffix('.json')}.run.json"
    log = Path(*parts[:-6], "logs", model, weights, "evaluation", run)
    return read_json(log).get("tags", {}).get("commit", "") if log.exists() else ""
