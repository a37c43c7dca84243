"""
Every file format that is read, damaged at random: the reader gives what it holds, or a UserError.

Never another exception, and where a checksum stands, never something else in silence. A round is a
seed, so a failure is found again. `FUZZ_ROUNDS=500 pytest tests/test_fuzz.py` tries more of them.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bad_cases.kit import (
    CONFIG,
    DATA,
    EXTENDED,
    FACTORS,
    METRICS,
    MODEL_FOLDER,
    RECORD,
    SEARCHED,
    Place,
    make_sound,
)  # fmt: skip
from bad_inputs import captured
from gguf_files import write_gguf
from longrope.audit import check
from longrope.audit.gguf_file import open_gguf
from longrope.checks import load_config
from longrope.config.corpus import CorpusSettings
from longrope.corpus.documents import read_documents
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.evaluation_file import read_evaluation
from longrope.extended import read_tiers
from longrope.factors import read_factors
from longrope.files import read_lines, resume_lines
from longrope.import_factors import import_csv
from longrope.models.checkpoint import check_weights, load_tokenizer, read_record
from longrope.models.tensors import check_finite, check_whole
from longrope.parallel.sharding import _damaged
from longrope.reading import read_yaml
from longrope.trace_file import read_trace_lines
from longrope.tracking.records import read_record as read_run

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", 12))
JUNK = [None, True, -1, 0.5, 10**30, "", "x", [], {}, [1], {"a": 1}]


# --- damage -----------------------------------------------------------------------------------


def cut(content: bytes, rng) -> bytes:
    return content[: rng.integers(len(content) + 1)]


def flip(content: bytes, rng) -> bytes:
    changed = bytearray(content)
    for at in rng.integers(len(changed), size=rng.integers(1, 4)) if changed else ():
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def without_a_part(content: bytes, rng) -> bytes:
    first, last = sorted(rng.integers(len(content) + 1, size=2))
    return content[:first] + content[last:]


def without_a_line(content: bytes, rng) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[rng.integers(len(lines))]
    return b"".join(lines)


def swapped(content: bytes, rng) -> bytes:
    lines = content.splitlines(keepends=True)
    a, b = rng.integers(len(lines), size=2)
    lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def of_another_type(content: bytes, rng) -> bytes:
    """One value of a JSON text, or of one of its lines, is another."""
    try:
        value = json.loads(content)
    except ValueError:
        return flip(content, rng)
    part, places = value, []
    while isinstance(part, dict | list) and part:
        keys = list(part) if isinstance(part, dict) else range(len(part))
        key = keys[int(rng.integers(len(keys)))]
        places.append((part, key))
        part = part[key]
    part, key = places[int(rng.integers(len(places)))]
    part[key] = JUNK[int(rng.integers(len(JUNK)))]
    return json.dumps(value).encode()


DAMAGES = (cut, flip, without_a_part, without_a_line, swapped, of_another_type)


# --- formats ----------------------------------------------------------------------------------


def corpus(kind: str) -> Callable[[Path], object]:
    def read(path: Path) -> list:
        source = {"kind": kind, "files": [str(path)]}
        settings = CorpusSettings(source=source, splits={"validation": 0.5})
        return [(each.id, each.text) for each in read_documents(settings)]

    return read


def tokens(path: Path) -> list:
    return [(each.id, each.tokens.tolist()) for each in TokenSplit(path.parent)]


def weights(path: Path) -> None:
    check_whole([path])
    check_finite([path])


def own_weights(path: Path) -> None:
    check_weights(path.parent, read_record(path.parent))


def state(path: Path) -> None:
    """A checkpoint of a training: any change of any file of it is seen."""
    if damaged := _damaged(path.parent):
        raise UserError(f"damaged: {damaged}")


# name -> file of the sound study, its reader, whether a checksum covers all of it
FORMATS: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "configuration": ("config.yaml", lambda path: load_config(read_yaml(path)), False),
    "factors.json": (FACTORS, read_factors, False),
    "extended.json": (EXTENDED, read_tiers, False),
    "published table": ("table.csv", None, False),
    "evaluation": (RECORD, read_evaluation, False),
    "trace": (f"{SEARCHED}/trace.jsonl", read_trace_lines, False),
    "metrics": (METRICS, read_lines, False),
    "progress of a search": (f"state/{SEARCHED}/trace.jsonl", resume_lines, False),
    "run record": ("a.run.json", read_run, False),
    "longrope.json": (f"{MODEL_FOLDER}/longrope.json", lambda p: read_record(p.parent), False),
    "config.json, audited": (f"{MODEL_FOLDER}/config.json", lambda path: check(path), False),
    "safetensors": ("source/model.safetensors", weights, False),
    "safetensors of ours": (f"{MODEL_FOLDER}/model.safetensors", own_weights, True),
    "training state": ("state/tuned/step-2/__0_0.distcp", state, True),
    "tokens": (f"{DATA}/test/tokens.bin", tokens, True),
    "manifest of tokens": (f"{DATA}/test/manifest.json", tokens, False),
    "text": ("texts/emma.txt", corpus("text"), False),
    "compressed text": ("emma.txt.xz", corpus("text"), True),
    "JSON lines": ("a.jsonl", corpus("jsonl"), False),
    "parquet": ("a.parquet", corpus("parquet"), False),
    "GGUF": ("model.gguf", lambda path: open_gguf(path) and check(path), False),
    "tokenizer.json": (f"{MODEL_FOLDER}/tokenizer.json", lambda p: load_tokenizer(p.parent), False),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The sound study, and a file of each format that it does not make."""
    import lzma

    import pyarrow as pa
    import yaml
    from pyarrow import parquet

    with captured():
        folder = make_sound(tmp_path_factory.mktemp("fuzz").resolve() / "sound")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "table.csv").write_text("1.0 1.5 2.0 2.5 3.0 3.5 4.0 4.5\n" * 4)
    texts = ["a b c", "d e f", "g h i"] * 10
    lines = [json.dumps({"text": f"{number} {text}"}) for number, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    parquet.write_table(pa.table({"text": texts}), folder / "a.parquet")
    (folder / "emma.txt.xz").write_bytes(lzma.compress((folder / "texts/emma.txt").read_bytes()))
    write_gguf(folder / "source", folder / "model.gguf")
    run = {
        "schema": 1, "run_id": "1", "stage": "search", "name": "a", "status": "finished",
        "started": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "params": {}, "metrics": {"a": 1.0},
        "curves": [], "artifacts": [], "tags": {},
    }  # fmt: skip
    (folder / "a.run.json").write_text(json.dumps(run))
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_refused_in_our_own_words(name, sound, tmp_path):
    file, read, summed = FORMATS[name]
    if name == "published table":
        rope = read_factors(sound / FACTORS).rope
        read = lambda path: import_csv(path, rope, 128)  # noqa: E731
    place = Place(tmp_path, sound)
    parent, path = str(Path(file).parent), tmp_path / file
    place.copy(file if parent == "." else parent)
    whole = path.read_bytes()
    with captured():
        expected = read(path)  # sound as it is
        for seed in range(ROUNDS):
            rng = np.random.default_rng([seed, *name.encode()])
            damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
            changed = damage(whole, rng) if whole else whole
            path.unlink()  # not in place: what is read may still be mapped
            path.write_bytes(changed)
            try:
                found = read(path)
            except UserError:
                continue
            except Exception as error:
                raise AssertionError(f"round {seed}, {damage.__name__}: {error!r}") from error
            if summed and changed != whole:  # what is not read may differ: padding of a container
                assert expected is not None and found == expected, f"round {seed}: in silence"
