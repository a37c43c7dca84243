"""
What the disk does to a file: one bit, the end, all of it. Every file that a later stage reads, or
that a stage goes on from, is then refused with one message that says what to delete, or made again;
nobody computes on with it.
"""

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import WINDOW, Killed, dying, make_checkpoint, make_tokens, tune
from longrope.baselines import closed_form
from longrope.checks import load_config
from longrope.config.evaluation import PerplexityStage
from longrope.config.search import SearchSettings
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.evaluate.perplexity import evaluate_perplexity
from longrope.extended import make_tiers, read_tiers, write_extended
from longrope.factors import read_factors, write_factors
from longrope.files import read_json, read_lines
from longrope.models.checkpoint import load_model, load_tokenizer, read_record, tuned_factors
from longrope.report.load import read_evaluations
from longrope.search.stage import search_factors
from longrope.tracking.records import RunRecord, write_record
from longrope.tracking.records import read_record as read_run
from longrope.training.finetune import batches_of

REMEDY = re.compile(r"delete (it|\S+) and run")
FLIPS = 40  # of a file that is read in no time
ONCE = 3  # of one that is read by running a stage

# --- damage -----------------------------------------------------------------------------------


def flipped(content: bytes, place: float) -> bytes:
    """One bit is another, so far into the content."""
    changed, at = bytearray(content), min(len(content) - 1, int(place * len(content)))
    changed[at] ^= 1 << int(place * 1e6) % 7  # letters stay letters, mostly
    return bytes(changed)


def damages(content: bytes, flips: int) -> dict[str, bytes]:
    """What may become of a file."""
    rng, lines = random.Random(1), content.splitlines(keepends=True)
    found = {"emptied": b"", "cut in half": content[: len(content) // 2]}
    if len(lines) > 1:
        found["without its last line"] = b"".join(lines[:-1])
    places = [0.0, 1.0, *(rng.random() for _ in range(flips))]
    return found | {f"flipped at {place:.4f}": flipped(content, place) for place in places}


# --- a study on disk --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Every kind of file that a study has, whole; and what killed stages go on from."""
    place = tmp_path_factory.mktemp("study")
    make_tokens(place / "data")
    base = make_checkpoint(place)
    factors = closed_form("yarn", read_record(base).rope, 128)
    tune(base, place / "data/train", place / "tuned", factors)
    write_factors(place / "factors.json", factors)
    write_extended(place / "extended", make_tiers([factors]), base)
    search(place, place / "searched")
    evaluate(place, place / "evaluated")
    began = "2026-01-01T00:00:00+00:00"
    run = RunRecord("search", "search", "finished", began, 1.5, metrics={"fitness": 2.5})
    write_record(place / "search.run.json", run)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("longrope.training.finetune.batches_of", dying(3, batches_of))
        tune(base, place / "data/train", place / "killed", factors, checkpoint_every=2)
    return place


def search(study: Path, out: Path) -> dict:
    """A search, which goes on from what is there; its factors but for seconds."""
    settings = SearchSettings(
        window=128,
        budget={"evaluations": 12, "documents": 1},
        optimiser={"name": "cma", "population": 4},
        space={"kind": "paper"},
        fitness={},
        attention_factor="none",
        seed=1,
    )
    paths = out / "factors.json", out / "trace.jsonl", out / "state"
    search_factors(settings, study / "model", study / "data/validation", *paths, say=lambda _: None)
    found = read_json(paths[0])
    found["provenance"]["seconds"] = 0
    return found


def evaluate(study: Path, out: Path) -> dict:
    """An evaluation, which goes on from what is there."""
    stage = PerplexityStage(evaluation="books", method="none", windows={WINDOW: 3, 128: 2})
    paths = [study / "factors.json"], out / "books.json", out / "state"
    evaluate_perplexity(stage, study / "model", study / "data/test", *paths)
    return read_json(paths[1])


def tuned(study: Path, out: Path) -> tuple:
    """A tuning, which goes on from what is there: its weights, and what its metrics say."""
    factors = read_factors(study / "factors.json")
    tune(study / "model", study / "data/train", out, factors, checkpoint_every=2)
    lines = read_lines(out / "metrics.jsonl")
    steady = [line | {"seconds": 0, "peak_memory": 0} for line in lines]
    return read_record(out / "model").fingerprint, steady


def reported(path: Path) -> object:
    """What tables get to know of an evaluation."""
    windows = {WINDOW: 3, 128: 2}
    asked = {"task": "perplexity", "windows": windows, "methods": {"base": ["none"]}}
    model = {"source": {"kind": "folder", "path": "x"}, "original_window": WINDOW, "corpus": "c"}
    corpus = {"source": {"kind": "text", "files": ["x"]}, "splits": {"test": ["x"]}}
    models = {"tiny": model | {"evaluation": {"books": asked}}}
    return read_evaluations(
        load_config({"seed": 1, "corpora": {"c": corpus}, "models": models}), [path]
    )


def documents_of(folder: Path) -> tuple:
    split = TokenSplit(folder)
    return split.sha256, split.tokenizer, split.manifest["documents"]


def with_provenance(factors) -> tuple:
    return factors, factors.provenance


def weights_of(folder: Path) -> dict:
    return {name: each.tolist() for name, each in load_model(folder).state_dict().items()}


# --- every kind of file, and who reads it -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A file of the study, and what reads it: to be refused if it is damaged."""

    path: str
    read: Callable[[Path], object]  # given the study
    flips: int = FLIPS


READ = {
    "weights": Kind("model/model.safetensors", lambda s: weights_of(s / "model"), ONCE),
    "weights' config": Kind("model/config.json", lambda s: weights_of(s / "model"), ONCE),
    "tokenizer": Kind(
        "model/tokenizer.json", lambda s: load_tokenizer(s / "model").get_vocab(), ONCE
    ),
    "weights' record": Kind("model/longrope.json", lambda s: read_record(s / "model")),
    "tuned factors": Kind(
        "tuned/model/tuned_factors.json", lambda s: tuned_factors(s / "tuned/model")
    ),
    "tokens": Kind(
        "data/test/tokens.bin", lambda s: [d.tokens.tolist() for d in TokenSplit(s / "data/test")]
    ),
    "tokens' manifest": Kind("data/test/manifest.json", lambda s: documents_of(s / "data/test")),
    "factors": Kind("factors.json", lambda s: read_factors(s / "factors.json")),
    "searched factors": Kind(
        "searched/factors.json",
        lambda s: with_provenance(read_factors(s / "searched/factors.json")),
    ),
    "table of tiers": Kind(
        "extended/extended.json", lambda s: read_tiers(s / "extended/extended.json")
    ),
    "factors of a tier": Kind(
        "extended/128.json", lambda s: read_tiers(s / "extended/extended.json")
    ),
    "evaluation": Kind("evaluated/books.json", lambda s: reported(s / "evaluated/books.json")),
    "trace": Kind("searched/trace.jsonl", lambda s: read_lines(s / "searched/trace.jsonl")),
    "metrics": Kind("tuned/metrics.jsonl", lambda s: read_lines(s / "tuned/metrics.jsonl")),
    "run record": Kind("search.run.json", lambda s: read_run(s / "search.run.json")),
}


@pytest.mark.parametrize("kind", READ)
def test_a_damaged_result_is_never_read_as_something_else(kind, study):
    asked = READ[kind]
    path = study / asked.path
    content, expected = path.read_bytes(), asked.read(study)
    refused = 0
    try:
        for damage, damaged in damages(content, asked.flips).items():
            path.write_bytes(damaged)
            try:
                found = asked.read(study)
            except UserError as error:
                said = str(error)
                assert path.name in said or str(path.parent) in said, (damage, said)
                assert REMEDY.search(said) and "\n" not in said, (damage, said)
                refused += 1
            else:  # a bit between words, or of a key that nobody asks for
                assert damage.startswith("flipped") and found == expected, damage
    finally:
        path.write_bytes(content)
    assert refused > 3 and asked.read(study) == expected


# --- what stages go on from -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resumed:
    """A file of a stage's progress, and the stage, which goes on from it."""

    path: str
    again: Callable[[Path, Path], object]  # given the study and the folder of the stage


STATES = {
    "a trace": Resumed("searched/state/trace.jsonl", search),
    "what a trace is of": Resumed("searched/state/made_from.json", search),
    "windows that are scored": Resumed("evaluated/state/records.jsonl", evaluate),
    "what those are of": Resumed("evaluated/state/made_from.json", evaluate),
    "a checkpoint": Resumed("killed/state/step-2/__0_0.distcp", tuned),
    "where its parts are": Resumed("killed/state/step-2/.metadata", tuned),
    "its checksums": Resumed("killed/state/step-2/sha256.json", tuned),
    "metrics of a training": Resumed("killed/state/metrics.jsonl", tuned),
    "what a checkpoint is of": Resumed("killed/state/made_from.json", tuned),
}


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory) -> dict:
    """What each of the stages comes to."""
    out = tmp_path_factory.mktemp("undisturbed")
    return {stage: stage(study, out / stage.__name__) for stage in (search, evaluate, tuned)}


@pytest.mark.parametrize("kind", STATES)
def test_a_stage_never_goes_on_from_damage_to_another_result(kind, study, undisturbed, tmp_path):
    asked = STATES[kind]
    folder, *inner = Path(asked.path).parts
    content = (study / asked.path).read_bytes()
    for damage, damaged in damages(content, flips=1).items():
        out = tmp_path / damage
        shutil.copytree(study / folder, out)
        out.joinpath(*inner).write_bytes(damaged)
        try:
            found = asked.again(study, out)
        except UserError as error:
            said = str(error)
            assert inner[-1] in said and "\n" not in said, (damage, said)
            shutil.rmtree(re.search(r"delete (\S.*?) and run", said)[1])  # as it says
            found = asked.again(study, out)
        assert found == undisturbed[asked.again], damage
        shutil.rmtree(out)
