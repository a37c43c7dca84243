"""Table 8, its average in Table 10 and RULER's rows, of records whose numbers are known by hand."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from longrope.checks import load_config
from longrope.config import Config
from longrope.config.evaluation import SHOTS
from longrope.evaluate.benchmarks import summarise
from longrope.evaluate.ruler import summarise as of_needles
from longrope.report.tables import make_table

PAPER = Path(__file__).parents[1] / "resources/paper/tables.csv"
STUDY = """
seed: 1
corpora: {books: {source: {kind: text, files: ["*.txt"]}, splits: {}}}
models:
  llama:
    source: {kind: hub, name: meta-llama/Llama-2-7b-hf}
    original_window: 4k
    corpus: books
    search: {8k: {evaluations: 8}}
    tunings: {ours: {method: search, window: 8k, steps: 4, batch: 2, learning_rate: 0.001}}
    extension: {weights: ours, search: {16k: {evaluations: 8}}}
    evaluation:
      benchmarks: {task: benchmarks, window: 4k, methods: {}}
      ruler: {task: ruler, prompts: {4k: 8}, methods: {}}
"""
FACTORS = {"method": "none", "window": 4096, "attention_factor": 1.0, "n_hat": 0}
FACTORS |= {"fingerprint": "x"}
ARC, MMLU = "ARC-Challenge", "MMLU"


def write(
    folder: Path,
    task: str,
    protocol: dict,
    results: dict,
    records: list[dict],
    method: str = "none",
    weights: str = "base",
) -> Path:
    path = folder / f"{task}-{weights}-{method}.json"
    evaluation = {
        "schema": 2, "task": task, "evaluation": task, "model": "llama", "weights": weights,
        "weights_fingerprint": "w", "method": method, "protocol": protocol,
        "amounts": {"4k": 0 if task == "benchmarks" else 8},
        "factors": {"4k": FACTORS}, "results": {"4k": results}, "records": records,
    }  # fmt: skip
    path.write_text(json.dumps(evaluation))
    return path


def asked(name: str, value: float, chance: float = 0.25, questions: int = 100, of: int = 100):
    """The record of one benchmark, with a standard error of 0.02."""
    return {
        "length": 4096, "benchmark": name, "metric": "acc", "value": value, "stderr": 0.02,
        "chance": chance, "questions": questions, "of": of, "shots": SHOTS[name], "bos": True,
    }  # fmt: skip


def benchmarks(folder: Path, records: list[dict], **key: str) -> Path:
    shots = {record["benchmark"]: record["shots"] for record in records}
    protocol = {"tiers": {"4k": FACTORS}, "harness": "0.4.13", "shots": shots}
    return write(folder, "benchmarks", protocol, summarise(records), records, **key)


def config_of(paths: list[Path]) -> Config:
    """The study with what some files are of."""
    raw = yaml.safe_load(STUDY)
    for record in (json.loads(path.read_text()) for path in paths):
        settings = raw["models"]["llama"]["evaluation"][record["evaluation"]]
        settings["methods"].setdefault(record["weights"], []).append(record["method"])
        if record["task"] == "benchmarks":
            settings["benchmarks"] = list(record["protocol"]["shots"])
    return load_config(raw)


def made(folder: Path, name: str, *paths: Path) -> pd.DataFrame:
    make_table(name, config_of(paths), list(paths), [], PAPER, folder / name)
    return pd.read_csv(folder / f"{name}.csv", dtype=str).set_index("weights, method")


def test_table_8_says_what_was_asked_and_what_is_no_better_than_guessing(tmp_path):
    records = [
        asked("arc_challenge", 0.53, questions=1172, of=1172),
        asked("mmlu", 0.28, questions=100, of=14042),
    ]
    table = made(tmp_path, "table08", benchmarks(tmp_path, records))
    ours = table.loc["untuned, original RoPE"]
    assert ours[ARC] == "53.0 ± 2.0"
    assert ours[MMLU] == "28.0 ± 2.0 (chance)"
    assert ours.HellaSwag == "–"
    assert ours.protocol == "25, 5-shot, window 4k, BOS, harness 0.4.13"
    assert table.loc["questions (of)", MMLU] == "100 (14042)"
    assert table.loc["guessing", ARC] == "25.0"
    assert "**" not in (tmp_path / "table08.md").read_text().replace("**Here:**", "")


def test_the_highest_score_and_what_errors_do_not_tell_from_it_are_bold(tmp_path):
    """1.96 joint standard errors of 2 points each are 5.54 points."""
    paths = [
        benchmarks(tmp_path, [asked("mmlu", value)], weights=weights, method=method)
        for weights, method, value in [
            ("base", "none", 0.46),
            ("ours", "tuned", 0.405),
            ("ours", "extended", 0.404),
        ]
    ]
    made(tmp_path, "table08", *paths)
    text = (tmp_path / "table08.md").read_text()
    assert re.findall(r"\*\*(\d.*?) ±", text) == ["46.0", "40.5"]
    assert "within 1.96 joint standard errors" in text


def test_table_8_has_every_number_of_the_paper_s_in_its_row_and_column(tmp_path):
    printed = made(tmp_path, "table08", benchmarks(tmp_path, [asked("mmlu", 0.4)]))
    printed = printed.query("source == 'paper'")
    columns = {"arc_challenge": ARC, "hellaswag": "HellaSwag", "mmlu": MMLU}
    columns["truthfulqa_mc2"] = "TruthfulQA MC2"
    rows = {
        ("original", ""): "original",
        ("together-32k", "32768"): "Together-32k, tuned at 32k",
        ("codellama-100k", "102400"): "Code LLaMA-100k, tuned at 100k",
        ("yarn-64k", "65536"): "YaRN-64k, tuned at 64k",
        ("yarn-128k", "131072"): "YaRN-128k, tuned at 128k",
        ("longrope-2048k", "131072"): "LongRoPE-2048k, tuned at 128k",
        ("longrope-2048k", "262144"): "LongRoPE-2048k, tuned at 256k",
    }
    numbers = pd.read_csv(PAPER, dtype=str, keep_default_na=False)
    for line in numbers.query("table == 'table8' and base == 'llama2-7b'").to_dict("records"):
        row = rows[line["method"], line["fine_tune_window"]]
        assert printed.loc[row, columns[line["dataset"]]] == line["value"]
    assert printed.index.tolist() == list(rows.values())


def test_table_10_has_the_average_of_the_benchmarks_with_and_without_recovery(tmp_path):
    values = {"extended": (0.5, 0.3), "longest": (0.4, 0.3)}
    paths = [
        benchmarks(
            tmp_path, [asked("arc_challenge", a), asked("mmlu", b)], weights="ours", method=m
        )
        for m, (a, b) in values.items()
    ]
    table, column = made(tmp_path, "table10", *paths), "average of benchmarks"
    ours = table.query("source == 'ours'")[column]
    assert ours.to_dict() == {
        "ours, extended (LongRoPE), with recovery": "40.0 ± 1.4",  # sqrt(2² + 2²) / 2
        "ours, 16k factors throughout, without recovery": "35.0 ± 1.4",
    }
    paper = "LongRoPE-2048k, tuned at 128k"
    assert table.loc[f"{paper}, with recovery", [column, "4k"]].tolist() == ["52.9", "3.71"]
    assert table.loc[f"{paper}, without recovery", [column, "4k"]].tolist() == ["49.3", "4.16"]


def needles(folder: Path, found: dict[str, str], **key: str) -> Path:
    """RULER's needles: a letter a prompt, x where it was found."""
    records = [
        {
            "length": 4096,
            "needle": name,
            "prompts": len(each),
            "found": each.count("x"),
            "trials": [{"value": str(n), "found": one == "x"} for n, one in enumerate(each)],
        }
        for name, each in found.items()
    ]
    protocol = {"needles": list(found), "haystack": "emma and 3 more"}
    return write(folder, "ruler", protocol, of_needles(records), records, **key)


def test_needles_of_ruler_stand_in_the_table_of_passkeys(tmp_path):
    path = needles(tmp_path, {"niah_single_1": "x" * 8, "niah_multikey_1": "x" * 4 + "." * 4})
    table = made(tmp_path, "passkey", path)
    rows = table.loc["untuned, original RoPE"]
    assert rows["4k"].tolist() == ["100 [68, 100]", "50 [22, 78]"]
    assert rows.protocol.tolist()[1] == "RULER niah_multikey_1, essays: emma and 3 more"
    assert table.loc["prompts of each", "4k"] == "8"


def test_a_needle_is_weighed_against_the_same_needle_only(tmp_path):
    all_, half, none = "x" * 8, "xxxx....", "." * 8
    found = {
        "tuned": {"niah_single_1": all_, "niah_multikey_1": none},
        "extended": {"niah_single_1": none, "niah_multikey_1": half},
    }
    paths = [
        needles(tmp_path, each, weights="ours", method=method) for method, each in found.items()
    ]
    table = made(tmp_path, "passkey", *paths)
    assert table.protocol.str.split(",").str[0].tolist()[:4] == [
        "RULER niah_single_1", "RULER niah_single_1", "RULER niah_multikey_1",
        "RULER niah_multikey_1",
    ]  # fmt: skip
    text = (tmp_path / "passkey.md").read_text()
    # 8 of 8 are told from 0 (p = 0.008), 4 of 8 are not (p = 0.125)
    assert re.findall(r"\*\*(\d+) \[", text) == ["100", "0", "50"]


@pytest.mark.parametrize("name", ["table08", "passkey"])
def test_a_table_of_nothing_says_so(name, tmp_path):
    assert made(tmp_path, name).empty
