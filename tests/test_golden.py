"""
Numbers that must not move unnoticed: small results of every stage that Snakemake cannot see change.

If one of these fails after a wanted change, raise the stage's number in longrope/versions.py, so
that existing studies run that stage again, and put the new value here.
"""

import json
import math
from pathlib import Path

import pytest

from longrope.baselines import closed_form
from longrope.config import FolderModel
from longrope.config.corpus import CorpusSettings, TokenizeSettings
from longrope.config.evaluation import BenchmarksStage, PasskeyStage, PerplexityStage, RulerStage
from longrope.config.search import Bayesian, Cma, SearchSettings
from longrope.config.training import TuningStage
from longrope.corpus.documents import SPLITS
from longrope.corpus.tokens import tokenize_corpus
from longrope.evaluate.benchmarks import evaluate_benchmarks
from longrope.evaluate.passkey import evaluate_passkey
from longrope.evaluate.perplexity import evaluate_perplexity
from longrope.evaluate.ruler import evaluate_ruler
from longrope.factors import write_factors
from longrope.models.checkpoint import load_tokenizer
from longrope.models.import_model import import_model
from longrope.search.stage import search_factors
from longrope.training.finetune import finetune

ROOT = Path(__file__).parent.parent
TOKENS = "7c431f6e49b5ad6b"
LOSS = 2.63419  # nats a token
TUNED = [1.87193, 1.54234, 2.45727, 1.97863]  # nats a token, weighted
TRIALS = [["42416", 0.75], ["62031", 0.375], ["72911", 0.25], ["67557", 0.75]]
BENCHMARK = ["f84786e099fc9b5e", 0.3]  # hash of the prompts, acc_norm
NEEDLES = "0621a2e2fbea45e1"  # hash of the prompts
TRACE = [4.07048, 3.24416, 3.26789, 3.247, 3.21513, 3.24631, 3.2322, 3.25254]  # nats a token
# By generation, on documents 0, 1, 1, 0, ...; noise of 1e-5 in the scores leaves the path the same.
SEARCHED = [
    [4.33403, 4.37625, 3.39434, 3.38699, 3.32115, 3.29624, 3.2499, 3.26516, 3.28971,  # starts
     3.34005, 3.27819, 3.27988, 3.26388],  # ramps
    [2.79878, 2.80365, 2.80034],  # the best three, on the other document
    [2.78948, 2.80021, 2.80166, 2.7915],
    [3.27017, 3.28209, 3.2711, 3.27365],
    [2.79916, 2.79271, 2.79301, 2.79842],
    [3.26201, 3.25778, 3.25516, 3.25906],
    [2.79984, 2.79442, 2.79452, 2.79338],
    [3.25404],
    [2.79214, 2.79166, 2.7915],  # finalists
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The carried model, three plays as its tokens, YaRN's factors for 512."""
    place = tmp_path_factory.mktemp("golden")
    source = FolderModel(kind="folder", path=str(ROOT / "resources/models/tiny"))
    record = import_model(source, "tiny", 256, place / "model")
    write_factors(place / "yarn.json", closed_form("yarn", record.rope, 512))
    corpus = CorpusSettings(
        source={
            "kind": "text",
            "files": [
                str(ROOT / f"resources/books/{book}.txt.xz")
                for book in ("macbeth", "othello", "the-tempest")
            ],
        },
        splits={"validation": ["othello", "the-tempest"], "test": ["macbeth"]},
    )
    folders = {split: place / split for split in SPLITS}
    tokenize_corpus(TokenizeSettings(corpus=corpus), load_tokenizer(place / "model"), folders)
    return place


def test_tokenize_gives_the_tokens_of_version_1(place):
    manifest = json.loads((place / "test/manifest.json").read_text())
    assert manifest["sha256"][:16] == TOKENS


def test_a_tuning_gives_the_losses_of_version_3(place):
    tuning = {
        "method": "yarn",
        "window": 512,
        "length": 256,
        "positions": "skipped",
        "steps": 4,
        "batch": 4,
        "learning_rate": 0.003,
        "warmup": 2,
        "short": {"share": 0.5, "length": 128},
        "mixture": {"text": 0.5, "digits-5": 0.5},
    }
    stage = TuningStage(name="tuned", tuning=tuning, seed=1)
    paths = (place / "model", place / "yarn.json", place / "validation")
    out = (place / "tuned", place / "tuned.jsonl", place / "state/tuned")
    finetune(stage, *paths, *out, say=lambda _: None)
    losses = [json.loads(line)["loss"] for line in out[1].read_text().splitlines()]
    assert losses == pytest.approx(TUNED, abs=1e-3)


def test_evaluate_perplexity_gives_the_number_of_version_1(place):
    stage = PerplexityStage(evaluation="books", method="yarn", windows={512: 8})
    paths = (place / "model", place / "test", [place / "yarn.json"])
    found = evaluate_perplexity(stage, *paths, place / "p.json", place / "state/p")
    assert math.log(found["perplexity_512"]) == pytest.approx(LOSS, abs=1e-4)


def test_evaluate_passkey_gives_the_prompts_of_version_1(place):
    stage = PasskeyStage(
        evaluation="passkey", method="yarn", prompts={512: 4}, key="digits-5", seed=1
    )
    paths = (place / "model", [place / "yarn.json"])
    evaluate_passkey(stage, *paths, place / "k.json", place / "state/k")
    trials = json.loads((place / "k.json").read_text())["records"][0]["trials"]
    assert [[trial["key"], trial["depth"]] for trial in trials] == TRIALS


def test_evaluate_benchmarks_gives_the_number_of_version_1(place):
    pytest.importorskip("lm_eval")
    stage = BenchmarksStage(
        evaluation="benchmarks",
        method="yarn",
        window=512,
        shots={"hellaswag": 0},
        questions=20,
        files=str(ROOT / "resources/benchmarks"),
    )
    paths = (place / "model", [place / "yarn.json"])
    evaluate_benchmarks(stage, *paths, place / "b.json", place / "state/b")
    (record,) = json.loads((place / "b.json").read_text())["records"]
    assert [record["prompts_sha256"], record["value"]] == BENCHMARK


def test_evaluate_ruler_gives_the_prompts_of_version_2(place):
    pytest.importorskip("lm_eval")
    stage = RulerStage(
        evaluation="ruler",
        method="yarn",
        needles=["niah_multikey_1"],
        prompts={512: 1},
        haystack=[str(ROOT / "resources/books/persuasion.txt.xz")],
        seed=1,
    )
    paths = (place / "model", [place / "yarn.json"])
    evaluate_ruler(stage, *paths, place / "r.json", place / "state/r", place / "prompts")
    (record,) = json.loads((place / "r.json").read_text())["records"]
    assert record["prompts_sha256"] == NEEDLES


def search(place: Path, name: str, **settings) -> list[dict]:
    """The trace of a search at 512 tokens."""
    paths = (place / f"{name}.json", place / f"{name}.jsonl", place / f"state/{name}")
    settings = SearchSettings(window=512, seed=1, **settings)
    search_factors(settings, place / "model", place / "validation", *paths)
    return [json.loads(line) for line in paths[1].read_text().splitlines()]


def test_search_gives_the_trace_of_version_3(place):
    budget = {"evaluations": 8, "documents": 1}
    lines = search(place, "cma", budget=budget, optimiser=Cma(name="cma"))
    assert [line["losses"]["perplexity"] for line in lines] == pytest.approx(TRACE, abs=1e-3)


def test_the_default_search_gives_the_trace_of_version_3(place):
    """As config.yaml has it: by the Gaussian process, with needles and the attention factor."""
    lines = search(
        place,
        "bayesian",
        budget={"evaluations": 20, "documents": 2},
        optimiser=Bayesian(name="bayesian"),
        fitness={"perplexity": 1, "needle": 0.1},
        attention_factor="search",
    )
    wanted = [(number, each) for number, fitness in enumerate(SEARCHED) for each in fitness]
    assert [line["generation"] for line in lines] == [number for number, _ in wanted]
    fitness = [each for _, each in wanted]
    assert [line["fitness"] for line in lines] == pytest.approx(fitness, abs=1e-3)
