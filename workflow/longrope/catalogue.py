"""
Published factors: entries that this package carries, each with what was measured with it.

An entry is one JSON file in `published_factors/`: the factors of one or several windows, the
weights they are for, and the records of evaluations, with intervals, protocol, hashes and the
command that made them. `longrope publish` makes an entry from results, so no number in one is
copied by hand.
This module imports nothing heavy.
"""

import contextlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from longrope.errors import UserError, meant, unknown_name
from longrope.extended import Tiers, make_tiers, write_extended
from longrope.factors import RescaleFactors, factors_of_record, write_factors
from longrope.files import read_json
from longrope.windows import parse_window, window_label

FOLDER = "published_factors"
SCHEMA = 1  # of an entry


@dataclass(frozen=True, slots=True)
class Entry:
    """Factors that were published, and what they are worth."""

    name: str
    about: str
    tiers: Tiers
    weights: str  # base, or the name of the tuning that they are for
    weights_fingerprint: str
    weights_published: bool  # False: tuned ones that are to be had nowhere
    source: dict  # where the base weights come from
    measured: tuple[dict, ...]  # one for each evaluation, without its single records
    made_with: dict  # command, version

    def perplexities(self) -> dict[int, dict]:
        """Length -> perplexity, interval and so on, of the first evaluation that has them."""
        found: dict[int, dict] = {}
        for record in self.measured:
            if record["task"] == "perplexity":
                for label, result in record["results"].items():
                    found.setdefault(parse_window(label), result)
        return dict(sorted(found.items()))


def names() -> list[str]:
    """The names of all carried entries."""
    folder = resources.files("longrope") / FOLDER
    return sorted(
        each.name.removesuffix(".json") for each in folder.iterdir() if each.name.endswith(".json")
    )


def entry(name: str) -> Entry:
    """A carried entry, or the one in a file that `longrope publish` wrote; UserError lists the
    known ones."""
    if Path(name).is_file():
        return _of_file(Path(name))
    if name not in names():
        raise unknown_name("published factors", name, names())
    return _read(json.loads((resources.files("longrope") / FOLDER / f"{name}.json").read_text()))


def file_or_entry(factors: object) -> Path | Entry:
    """What a user has named: a file of factors, or an entry, carried or in a file; UserError if
    neither."""
    path = Path(str(factors))
    if path.is_file():
        return _of_file(path) if _holds_entry(path) else path
    if str(factors) in names():
        return entry(str(factors))
    raise UserError(
        f"factors {str(factors)!r}: neither a file nor a published entry; published are"
        f" {', '.join(names())}{meant(str(factors), names())}"
    )


def _holds_entry(path: Path) -> bool:
    """Whether a file is of the kind that `longrope publish` writes; who reads another finds out
    what is wrong with it."""
    with contextlib.suppress(UserError):
        return {"measured", "made_with"} <= read_json(path).keys()
    return False


def _of_file(path: Path) -> Entry:
    record = read_json(path)
    try:
        return _read(record)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no entry as `longrope publish` writes it ({type(error).__name__}: {error})"
        ) from error


def _read(record: dict) -> Entry:
    if record.get("schema") != SCHEMA:
        raise UserError(f"an entry of schema {record.get('schema')!r}, this reads {SCHEMA}")
    return Entry(
        name=record["name"],
        about=record["about"],
        tiers=make_tiers([factors_of_record(each) for each in record["factors"]]),
        weights=record["weights"],
        weights_fingerprint=record["weights_fingerprint"],
        weights_published=record.get("weights_published", True),
        source=record["source"],
        measured=tuple(record["measured"]),
        made_with=record["made_with"],
    )


def listing() -> str:
    """All entries, a paragraph each: windows, and perplexity at each length."""
    return "\n\n".join(summary(entry(name)) for name in names())


def summary(found: Entry) -> str:
    """What an entry is and what was measured, for people."""
    rope = found.tiers.rope
    windows = ", ".join(window_label(each.window) for each in found.tiers.factors)
    lines = [
        f"{found.name}: {found.about}",
        f"  for {rope.model}, weights {found.weights} {found.weights_fingerprint}"
        f" (base {rope.fingerprint}, window {window_label(rope.original_window)},"
        f" {rope.pairs} pairs)",
        f"  windows {windows}",
    ]
    if not found.weights_published:
        lines.append(
            "  these weights are not published: the command below makes them, to the same bits only"
            " where everything else is the same; on others, search"
        )
    for record in found.measured:
        lines.append(f"  {record['evaluation']} ({record['task']}, data {_data(record)}): ")
        lines[-1] += ", ".join(
            f"{label} {_value(result)}" for label, result in record["results"].items()
        )
    commits = ", ".join(sorted({each["commit"] or "unknown" for each in found.measured}))
    made = f"  made by `{found.made_with['command']}` at commit {commits}"
    return "\n".join([*lines, made])


def _data(record: dict) -> str:
    return record["protocol"].get("corpus_sha256") or f"seed {record['protocol'].get('seed')}"


def _value(result: dict) -> str:
    if "perplexity" in result:
        interval = result.get("interval")
        around = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        return f"{result['perplexity']:.2f}{around}"
    if "accuracy" in result:
        return f"{result['found']}/{result['prompts']}"
    return "?"


def write_out(found: Entry, out: Path, window: int | None = None) -> list[Path]:
    """Write an entry's factors: one window as a file, all as a folder with extended.json."""
    if window is not None or len(found.tiers.factors) == 1:
        path = out / "factors.json" if out.suffix != ".json" else out
        write_factors(path, one_of(found, window))
        return [path]
    if out.suffix == ".json":
        labels = ", ".join(window_label(each.window) for each in found.tiers.factors)
        raise UserError(
            f"{out}: {found.name} has factors for {labels}; say which with --window, or name a"
            " folder for all of them"
        )
    weights = Path(f"results/{found.tiers.rope.model}/{found.weights}/model")
    write_extended(out, found.tiers, weights)
    return sorted(out.glob("*.json"))


def one_of(found: Entry, window: int | None) -> RescaleFactors:
    """The factors of one window of an entry, or of its longest; UserError lists what it has."""
    return found.tiers.longest if window is None else found.tiers.at(window)
