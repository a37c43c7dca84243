"""Table 8 and RULER's rows, of records whose numbers are known by hand."""

import json
from pathlib import Path

import pandas as pd
import yaml

from longrope.checks import load_config
from longrope.config import Config
from longrope.evaluate.benchmarks import summarise
from longrope.evaluate.ruler import summarise as of_needles
from longrope.report.tables import make_table

PAPER = Path(__file__).parents[1] / "resources/paper/tables.csv"
STUDY = """
seed: 1
corpora: {books: {source: {kind: text, files: ["*.txt"]}, splits: {}}}
models:
  llama2-7b:
    source: {kind: folder, path: model}
    original_window: 4k
    corpus: books
    evaluation:
      benchmarks: {task: benchmarks, window: 4k, methods: {base: [none]}}
      ruler: {task: ruler, prompts: {4k: 8}, methods: {base: [none]}}
"""
FACTORS = {"method": "none", "window": 4096, "attention_factor": 1.0, "n_hat": 0}
FACTORS |= {"fingerprint": "x"}


def config() -> Config:
    return load_config(yaml.safe_load(STUDY))


def write(folder: Path, task: str, protocol: dict, results: dict, records: list[dict]) -> Path:
    path = folder / f"{task}.json"
    evaluation = {
        "schema": 2, "task": task, "evaluation": task, "model": "llama2-7b", "weights": "base",
        "weights_fingerprint": "w", "method": "none", "protocol": protocol,
        "factors": {"4k": FACTORS}, "results": {"4k": results}, "records": records,
    }  # fmt: skip
    path.write_text(json.dumps(evaluation))
    return path


def asked(name: str, value: float, chance: float, questions: int, of: int, shots: int) -> dict:
    return {
        "length": 4096, "benchmark": name, "metric": "acc", "value": value, "stderr": 0.02,
        "chance": chance, "questions": questions, "of": of, "shots": shots, "bos": True,
    }  # fmt: skip


def made(folder: Path, name: str, path: Path) -> pd.DataFrame:
    make_table(name, config(), [path], [], PAPER, folder / name)
    return pd.read_csv(folder / f"{name}.csv", dtype=str).set_index("weights, method")


def test_table_8_says_what_was_asked_and_what_is_no_better_than_guessing(tmp_path):
    records = [
        asked("arc_challenge", 0.53, 0.25, 1172, 1172, 25),
        asked("mmlu", 0.28, 0.25, 100, 14042, 5),
    ]
    protocol = {"tiers": {"4k": FACTORS}, "harness": "0.4.13"}
    path = write(tmp_path, "benchmarks", protocol, summarise(records), records)
    table = made(tmp_path, "table08", path)
    ours = table.loc["untuned, original RoPE"]
    assert ours["ARC-Challenge"] == "53.0 ± 2.0"
    assert ours["MMLU"] == "28.0 ± 2.0 (chance)"
    assert ours.HellaSwag == "–"
    assert ours.protocol == "25, 5-shot, window 4k, BOS, harness 0.4.13"
    assert table.loc["questions (of)", "MMLU"] == "100 (14042)"
    assert table.loc["guessing", "ARC-Challenge"] == "25.0"


def test_table_8_has_the_paper_s_numbers_of_that_model_in_one_row_a_method(tmp_path):
    records = [asked("mmlu", 0.4, 0.25, 100, 14042, 5)]
    protocol = {"tiers": {"4k": FACTORS}, "harness": "0.4.13"}
    path = write(tmp_path, "benchmarks", protocol, summarise(records), records)
    printed = made(tmp_path, "table08", path).query("source == 'paper'")
    columns = ["ARC-Challenge", "HellaSwag", "MMLU", "TruthfulQA MC2"]
    numbers = pd.read_csv(PAPER, dtype=str).query("table == 'table8' and base == 'llama2-7b'")
    assert sorted(printed[columns].to_numpy().ravel()) == sorted(numbers.value)
    assert printed.loc["original"][columns].tolist() == ["53.1", "78.6", "46.6", "39.0"]


def test_needles_of_ruler_stand_in_the_table_of_passkeys(tmp_path):
    needles = {"niah_single_1": 8, "niah_multikey_1": 4}
    records = [
        {"length": 4096, "needle": name, "prompts": 8, "found": found}
        for name, found in needles.items()
    ]
    protocol = {"needles": list(needles), "haystack": "emma and 3 more"}
    path = write(tmp_path, "ruler", protocol, of_needles(records), records)
    table = made(tmp_path, "passkey", path)
    rows = table.loc["untuned, original RoPE"]
    assert rows["4k"].tolist() == ["100 [68, 100]", "50 [22, 78]"]
    assert rows.protocol.tolist()[1] == "RULER niah_multikey_1, essays: emma and 3 more"
    assert table.loc["prompts of each", "4k"] == "8"
