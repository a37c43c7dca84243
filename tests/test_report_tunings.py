"""The table of tunings, of records and metrics whose numbers are known by hand."""

import json
import math

import pandas as pd
import pytest
import yaml

from evaluations import documents, fitted, write_evaluation
from longrope.checks import load_config
from longrope.errors import UserError
from longrope.report.tables import make_table

STUDY = """
seed: 1
corpora: {books: {source: {kind: text, files: ["*.txt"]}, splits: {}}}
models:
  toy:
    source: {kind: folder, path: model}
    original_window: 256
    corpus: books
    tunings:
      first: &all {method: yarn, window: 1k, steps: 2, batch: 2, learning_rate: 0.001}
      second: {<<: *all, start: first, short: {share: 0.5}, checkpointing: true}
      lora: {<<: *all, length: 512, positions: skipped, lora: {rank: 8, train: [norms]}}
    evaluation:
      books: &shown
        task: perplexity
        windows: {256: 2, 1k: 2}
        methods: &methods {base: [none], second: [tuned, none], lora: [tuned]}
        shown_in: [tunings]
      passkey: {task: passkey, prompts: {1k: 10}, methods: *methods, shown_in: [tunings]}
"""
COSTS = {"first": (50, 1.0, 4), "second": (40, 2.5, 3), "lora": (2, 0.25, 1)}


def passkeys(found: int) -> list[dict]:
    trials = [{"key": str(n), "depth": 0.5, "found": n < found} for n in range(10)]
    record = {"length": 1024, "prompts": 10, "found": found, "trials": trials}
    return [record | {"prompts_sha256": "x"}]


def write_metrics(folder, weights: str, trained: int, seconds: float, mebibytes: int):
    """Two steps, 100 thousand tokens each."""
    line = {"tokens": 100_000, "seconds": seconds, "trained_parameters": trained * 1000}
    path = folder / f"results/toy/{weights}/training/metrics.jsonl"
    path.parent.mkdir(parents=True)
    peaks = [(mebibytes - 1) << 20, mebibytes << 20]
    path.write_text("".join(json.dumps(line | {"peak_memory": each}) + "\n" for each in peaks))
    return path


@pytest.fixture
def made(tmp_path) -> pd.DataFrame:
    books = {"name": "books"}
    paths = [
        write_evaluation(tmp_path, "base", "none", documents(256, 1.0, 2.0), **books),
        write_evaluation(
            tmp_path,
            "second",
            "tuned",
            [*documents(256, 1.3, 2.3), *documents(1024, 1.5, 2.5)],
            **books,
        ),
        write_evaluation(tmp_path, "second", "none", documents(256, 1.2, 2.2), **books),
        write_evaluation(
            tmp_path,
            "lora",
            "tuned",
            [*documents(256, 1.4, 2.4), *documents(1024, 2.0, 3.0)],
            **books,
        ),
        write_evaluation(tmp_path, "second", "tuned", passkeys(9)),
        write_evaluation(tmp_path, "lora", "tuned", passkeys(0)),
    ]
    trainings = [write_metrics(tmp_path, name, *cost) for name, cost in COSTS.items()]
    config = fitted(load_config(yaml.safe_load(STUDY)), paths)
    stem = tmp_path / "out/tunings"
    make_table("tunings", config, paths, [], tmp_path / "none", stem, trainings=trainings)
    return pd.read_csv(stem.with_suffix(".csv"), dtype=str).set_index("weights, method")


def test_a_tuning_has_its_worth_at_every_window(made):
    second = made.loc["second, as tuned (1k factors)"]
    assert second["perplexity 1k"] == f"{math.exp(2):.2f}"
    assert second["perplexity 256"] == f"{math.exp(1.8):.2f}"
    assert second["passkeys 1k"].startswith("90 [")
    assert made.loc["second, original RoPE", "perplexity 256"] == f"{math.exp(1.7):.2f}"
    assert made.loc["lora, as tuned (1k factors)", "passkeys 1k"].startswith("0 [")


def test_costs_add_up_over_the_tunings_that_led_to_some_weights(made):
    columns = ["M weights trained", "M tokens", "seconds", "peak MiB"]
    assert made.loc["second, as tuned (1k factors)", columns].tolist() == ["0.05", "0.4", "7", "4"]
    assert made.loc["lora, as tuned (1k factors)", columns].tolist() == ["0.002", "0.2", "0", "1"]
    assert set(made.loc["untuned, original RoPE", columns]) == {"–"}


def test_how_weights_were_tuned_is_said_tuning_after_tuning(made):
    how = made["how it was tuned"]
    assert how["second, as tuned (1k factors)"] == (
        "all weights, 1k, then all weights, 1k, 50% in 256 with the original RoPE, activations"
        " computed again"
    )
    assert how["lora, as tuned (1k factors)"] == "LoRA 8, norms, 512 of 1k, positions skipped"


def test_metrics_of_another_study_and_of_an_older_version_are_refused(tmp_path):
    config = load_config(yaml.safe_load(STUDY))
    other = write_metrics(tmp_path, "third", 1, 1.0, 1)
    with pytest.raises(UserError, match="the metrics of no tuning"):
        make_table("tunings", config, [], [], tmp_path, tmp_path / "out", trainings=[other])
    old = write_metrics(tmp_path, "first", 1, 1.0, 1)
    old.write_text(json.dumps({"tokens": 1, "seconds": 1}) + "\n")
    with pytest.raises(UserError, match=r"incomplete .*tune again"):
        make_table("tunings", config, [], [], tmp_path, tmp_path / "out", trainings=[old])
