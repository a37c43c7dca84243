"""What tables, figures and the summary say of records whose numbers are known by hand."""

import base64
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from evaluations import documents, fitted, scored, write_evaluation
from helpers import TOY_ROPE, Toy, convex, toy_search
from longrope.checks import load_config
from longrope.config.evaluation import PasskeyShown, PerplexityShown
from longrope.config.search import Evolution
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, write_factors
from longrope.report.contents import CONTENTS, index
from longrope.report.drawing import spread
from longrope.report.figures import FIGURES, plot
from longrope.report.labels import row_label
from longrope.report.load import accuracies, perplexities, read_evaluations
from longrope.report.outcome import outcome
from longrope.report.page import page_of
from longrope.report.search import plot_search, read_trace
from longrope.report.summary import summarise, write_summary
from longrope.report.tables import TABLES, make_table
from longrope.search.scoring import Score
from longrope.statistics import compare, mean_interval, wilson
from longrope.targets import shown

ROOT = Path(__file__).parents[1]
STUDY = """
seed: 1
corpora: {books: {source: {kind: text, files: ["*.txt"]}, splits: {}}}
models:
  MODEL:
    source: SOURCE
    original_window: 256
    corpus: books
    search: {1k: {evaluations: 8}}
    variants: {search-dimensions: {windows: [1k, 2k]}, search-raced: {seeds: [1, 2]}}
    tunings:
      ours-1k: {method: search, window: 1k, steps: 4, batch: 2, learning_rate: 0.001,
                mixture: {text: 0.7, digits-5: 0.2, word: 0.1}}
      yarn-1k: {method: yarn, window: 1k, steps: 4, batch: 2, learning_rate: 0.001}
    extension: {weights: ours-1k, search: {2k: {evaluations: 8}}, recovery: {512: {evaluations: 8}}}
    evaluation:
      perplexity: {task: perplexity, windows: {256: 2, 512: 2, 1k: 2, 2k: 2}, methods: PERPLEXITY}
      passkey: {task: passkey, prompts: {1k: 10}, methods: PASSKEY}
"""
PAPER = """table,base,method,fine_tune_window,dataset,setting,length,metric,bound,value,note
table6,llama2-7b,yarn-64k,65536,books3,"20 books, sliding window 256k",1024,perplexity,,6.20,
table6,llama2-7b,yarn-64k,65536,books3,"20 books, sliding window 256k",2048,perplexity,>,10000.0,
table6,mistral-7b,original,,books3,"20 books, sliding window 256k",1024,perplexity,,66.61,
"""


FOLDER = {"kind": "folder", "path": "model"}
LLAMA2 = {"kind": "hub", "name": "meta-llama/Llama-2-7b-hf"}


def config_of(
    model: str = "toy",
    perplexity: dict | None = None,
    passkey: dict | None = None,
    source: dict = FOLDER,
):
    """The study with some methods evaluated: weights -> methods."""
    text = STUDY.replace("MODEL", model).replace("PERPLEXITY", json.dumps(perplexity or {}))
    text = text.replace("SOURCE", json.dumps(source))
    return load_config(yaml.safe_load(text.replace("PASSKEY", json.dumps(passkey or {}))))


def paper(folder: Path) -> Path:
    path = folder / "paper.csv"
    path.write_text(PAPER)
    return path


# --- statistics -------------------------------------------------------------------------------


def test_a_difference_weighs_every_window_by_its_tokens():
    ours = [scored(256, "x", 1.0, 2.0, tokens=10), scored(256, "y", 3.0, tokens=60)]
    theirs = [scored(256, "x", 1.5, 2.5, tokens=10), scored(256, "y", 2.9, tokens=60)]
    found = compare(ours, theirs, 256)
    assert found.difference == pytest.approx((10 * 0.5 + 10 * 0.5 - 60 * 0.1) / 80)
    assert (found.windows, found.documents) == (3, 2)


def test_documents_that_agree_make_a_win_and_the_other_way_round_a_loss():
    ours, theirs = documents(256, 1.0, 2.0, 3.0), documents(256, 1.25, 2.25, 3.25)
    win, loss = compare(ours, theirs, 256), compare(theirs, ours, 256)
    assert (win.outcome, win.interval) == ("win", (0.25, 0.25))
    assert (loss.outcome, loss.difference) == ("loss", -0.25)


def test_documents_that_disagree_make_a_tie():
    assert compare(documents(256, 1, 1, 1), documents(256, 1.5, 0.5, 1.1), 256).outcome == "tie"
    assert compare(documents(256, 1, 2), documents(256, 1, 2), 256).outcome == "tie"


def test_many_windows_of_two_documents_are_two_witnesses():
    """Gains of 1 and -0.5: Student's t of one degree of freedom, 12.706 standard errors."""
    ours = [scored(256, "x", *[1.0] * 50), scored(256, "y", *[1.0] * 50)]
    theirs = [scored(256, "x", *[2.0] * 50), scored(256, "y", *[0.5] * 50)]
    found = compare(ours, theirs, 256)
    assert found.interval == pytest.approx((0.25 - 12.706 * 0.75, 0.25 + 12.706 * 0.75), abs=1e-3)
    assert (found.outcome, found.windows) == ("tie", 100)


def test_with_many_documents_the_interval_is_that_of_the_mean():
    gains = np.random.default_rng(0).normal(0.02, 0.1, 400)
    found = compare(documents(256, *[1.0] * 400), documents(256, *(1 + gains)), 256)
    error = 1.96 * gains.std() / math.sqrt(400)
    assert found.interval == pytest.approx((gains.mean() - error, gains.mean() + error), abs=1e-3)


def test_six_documents_of_unequal_lengths_hold_the_truth_in_their_interval_95_times_of_100():
    rng, truth, held = np.random.default_rng(0), 0.02, 0
    for _ in range(4000):
        tokens = rng.integers(200, 600, 6)
        low, high = mean_interval(tokens * rng.normal(truth, 0.05, 6), tokens)
        held += low <= truth <= high
    assert held / 4000 == pytest.approx(0.95, abs=0.014)  # four standard errors


def test_one_document_decides_nothing():
    found = compare([scored(256, "x", 1.0, 1.0)], [scored(256, "x", 2.0, 2.0)], 256)
    assert (found.difference, found.interval, found.outcome) == (1.0, None, "undecided")


@pytest.mark.parametrize(
    "theirs",
    [
        [scored(256, "x", 1.0, text="b"), scored(256, "y", 1.0)],
        [scored(256, "x", 1.0, 1.0), scored(256, "y", 1.0)],
        [scored(256, "x", 1.0, tokens=99), scored(256, "y", 1.0)],
        [scored(256, "x", 1.0)],
        [scored(512, "x", 1.0), scored(512, "y", 1.0)],
    ],
    ids=["other text", "more windows", "fewer tokens", "fewer documents", "another length"],
)
def test_evaluations_of_other_tokens_are_not_compared(theirs):
    with pytest.raises(UserError, match="perplexity at 256"):
        compare([scored(256, "x", 1.0), scored(256, "y", 1.0)], theirs, 256)


@pytest.mark.parametrize(
    ("found", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_those_of_newcombe_1998(found, trials, low, high):
    assert wilson(found, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(trials - found, trials) == pytest.approx((1 - high, 1 - low), abs=5e-5)


# --- loading ----------------------------------------------------------------------------------


def test_perplexity_weighs_tokens_and_the_document_mean_does_not(tmp_path):
    records = [
        scored(256, "long", math.log(10), tokens=300),
        scored(256, "short", math.log(1000), tokens=100),
    ]
    path = write_evaluation(tmp_path, "base", "none", records)
    config = config_of(perplexity={"base": ["none"]})
    row = perplexities(read_evaluations(fitted(config, [path]), [path])).iloc[0]
    assert row.perplexity == pytest.approx(10**1.5)
    assert row.perplexity_document_mean == pytest.approx(505)
    assert (row.tokens, row.windows, row.documents) == (400, 2, 2)


def test_accuracy_comes_with_its_interval(tmp_path):
    records = [{"length": 1024, "prompts": 20, "found": 0, "trials": []}]
    path = write_evaluation(tmp_path, "base", "none", records)
    config = config_of(passkey={"base": ["none"]})
    row = accuracies(read_evaluations(fitted(config, [path]), [path])).iloc[0]
    assert (row.accuracy, row.low, round(row.high, 4)) == (0, 0, 0.1611)


def test_an_evaluation_that_the_configuration_does_not_name_is_refused(tmp_path):
    path = write_evaluation(tmp_path, "base", "ntk", documents(1024, 1.0))
    with pytest.raises(UserError, match=r"unknown method 'ntk': known are none, yarn"):
        read_evaluations(config_of(perplexity={"base": ["none", "yarn"]}), [path])
    config = fitted(config_of(perplexity={"base": ["ntk"]}), [path])
    with pytest.raises(UserError, match="a second evaluation"):
        read_evaluations(config, [path, path])
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 1'))
    with pytest.raises(UserError, match="schema 1, expected schema 2"):
        read_evaluations(config, [path])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"windows": {"1k": 3}}, "2 at 1k instead of 3 at 1k"),
        ({"windows": {"1k": 2, "2k": 1}}, "2 at 1k instead of 2 at 1k, 1 at 2k"),
        ({"stride": 256}, "stride length instead of 256"),
        ({"mode": "truncate"}, "mode stride instead of truncate"),
        ({"documents": 4, "at_least": "2k"}, "documents all instead of 4; at_least length"),
    ],
)
def test_what_was_measured_otherwise_than_the_configuration_asks_for_is_refused(
    changes, said, tmp_path
):
    path = write_evaluation(tmp_path, "base", "none", documents(1024, 1.0, 2.0))
    config = fitted(config_of(perplexity={"base": ["none"]}), [path])
    assert len(read_evaluations(config, [path])) == 1
    raw = config.model_dump()
    raw["models"]["toy"]["evaluation"]["perplexity"] |= changes | {"methods": {"base": ["none"]}}
    with pytest.raises(UserError, match=f"{said}.*; run the evaluation again"):
        read_evaluations(load_config(raw), [path])


def test_passkeys_of_another_kind_than_configured_are_refused(tmp_path):
    records = [{"length": 1024, "prompts": 10, "found": 5, "trials": []}]
    path = write_evaluation(tmp_path, "base", "none", records)
    raw = fitted(config_of(passkey={"base": ["none"]}), [path]).model_dump()
    raw["models"]["toy"]["evaluation"]["passkey"]["key"] = "word"
    with pytest.raises(UserError, match="key digits-5 instead of word; run the evaluation again"):
        read_evaluations(load_config(raw), [path])


@pytest.mark.parametrize(
    ("weights", "method", "label"),
    [
        ("base", "none", "untuned, original RoPE"),
        ("base", "yarn", "untuned, YaRN (from 256)"),
        ("base", "search", "untuned, search (LongRoPE)"),
        ("ours-1k", "extended", "ours-1k, extended (LongRoPE)"),
        ("ours-1k", "search", "ours-1k, second search"),
        ("ours-1k", "yarn", "ours-1k, YaRN (from 256)"),
        ("ours-1k", "yarn-on-tuned", "ours-1k, YaRN on tuned (from 1k)"),
        ("ours-1k", "longest", "ours-1k, 2k factors throughout"),
        ("yarn-1k", "yarn", "yarn-1k, YaRN"),
        ("yarn-1k", "tuned", "yarn-1k, as tuned (1k factors)"),
        ("base", "search-dimensions", "untuned, search: dimensions"),
        ("ours-1k", "search-dimensions", "ours-1k, second search: dimensions"),
        ("base", "search-raced-seed2", "untuned, search: raced, seed 2"),
    ],
)
def test_rows_have_names_that_people_read(weights, method, label):
    assert row_label(config_of().models["toy"], weights, method) == label


# --- tables -----------------------------------------------------------------------------------


def make_tables(config, records: list[Path], paper: Path, out: Path) -> None:
    config = fitted(config, records)
    for name in ("table06", "table09", "table10", "passkey"):
        make_table(name, config, records, [], paper, out / name)


def keys(*found: bool) -> list[dict]:
    """A passkey record at 1k, a prompt each."""
    trials = [{"key": str(n), "depth": 0.5, "found": each} for n, each in enumerate(found)]
    return [{"length": 1024, "prompts": len(found), "found": sum(found), "trials": trials}]


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv", dtype=str).set_index("weights, method")


@pytest.fixture
def compared(tmp_path):
    """Table 6 of four untuned methods: the best, one that ties, one worse, one blown up."""
    methods = {
        "none": documents(1024, 5.0, 6.0, 7.0),
        "pi": documents(1024, 2.5, 3.5, 4.5),
        "ntk": documents(1024, 2.1, 2.9, 4.0),
        "yarn": documents(1024, 2.0, 3.0, 3.9),
    }
    paths = [write_evaluation(tmp_path, "base", name, each) for name, each in methods.items()]
    config = config_of(perplexity={"base": list(methods)})
    make_tables(config, paths, paper(tmp_path), tmp_path / "out")
    return tmp_path / "out"


def test_a_row_that_ties_with_the_best_is_bold_too_and_a_worse_one_is_not(compared):
    text = (compared / "table06.md").read_text()
    assert f"**{math.exp(8.9 / 3):.2f}**" in text and f"**{math.exp(3):.2f}**" in text
    assert f"| {math.exp(3.5):.2f} |" in text and f"| {math.exp(6):.1f} |" in text


@pytest.mark.parametrize(
    ("better", "worse", "told"),
    [
        ((2.0, 3.0, 4.0), (2.5, 3.5, 4.5), "told apart"),
        ((2.0, 3.0, 4.0), (2.1, 2.9, 4.1), "not told apart"),
        ((2.0,), (3.0,), "one document, so not compared"),
    ],
)
def test_a_table_says_who_is_lowest_and_whether_that_is_more_than_chance(
    better, worse, told, tmp_path
):
    losses = {"yarn": better, "pi": worse}
    paths = [write_evaluation(tmp_path, "base", k, documents(1024, *v)) for k, v in losses.items()]
    make_tables(
        config_of(perplexity={"base": ["pi", "yarn"]}), paths, paper(tmp_path), tmp_path / "out"
    )
    (line,) = re.findall(r"\*\*Here:\*\* (.*)", (tmp_path / "out/table06.md").read_text())
    assert re.search(rf"at 1k the lowest is untuned, YaRN.*, then untuned, PI .*, {told}\)", line)


def test_a_row_says_at_which_lengths_its_windows_slid(tmp_path):
    records = [
        *[scored(256, name, 2.0, 2.0, text="short") for name in ("a", "b")],
        *[scored(512, name, 2.0, 2.0, text="long") for name in ("a", "b")],
        *[scored(1024, name, 2.0, text="alone") for name in ("a", "b")],
    ]
    path = write_evaluation(tmp_path, "base", "none", records)
    content = json.loads(path.read_text())
    content["protocol"]["stride"] = 256
    path.write_text(json.dumps(content))
    raw = config_of(perplexity={"base": ["none"]}).model_dump()
    raw["models"]["toy"]["evaluation"]["perplexity"]["stride"] = 256
    config = load_config(raw)
    make_tables(config, [path], paper(tmp_path), tmp_path / "out")
    found = table(tmp_path / "out", "table06").protocol.iloc[0]
    assert found == "sliding window, stride 256 (at 512)"


def test_the_three_forms_of_a_table_hold_the_same_cells(compared):
    cells = table(compared, "table06")["1k"].tolist()
    assert cells == ["403.4", "33.12", "20.09", "19.43", "3 (3)"]
    for ending in ("md", "tex"):
        text = (compared / f"table06.{ending}").read_text()
        assert all(cell in text for cell in cells) and "non-overlapping windows" in text


def test_the_paper_s_model_is_known_by_its_hub_name_not_by_what_it_is_called(tmp_path):
    for model, source in (("llama2-7b", FOLDER), ("mine", LLAMA2)):
        config = config_of(model, perplexity={"base": ["none"]}, source=source)
        path = write_evaluation(tmp_path, "base", "none", documents(1024, 2.0, 3.0), model)
        make_tables(config, [path], paper(tmp_path), tmp_path / model)
    assert set(table(tmp_path / "llama2-7b", "table06").source) == {"ours"}
    printed = table(tmp_path / "mine", "table06").query("source == 'paper'")
    assert printed.index.tolist() == ["YaRN-64k, tuned at 64k"]
    assert printed[["1k", "2k"]].to_numpy().tolist() == [["6.20", ">10^4"]]


def test_what_all_rows_say_is_said_once_and_what_the_paper_s_do_not_is_not(tmp_path):
    for model, source in (("toy", FOLDER), ("mine", LLAMA2)):
        config = config_of(model, perplexity={"base": ["none"]}, source=source)
        path = write_evaluation(tmp_path, "base", "none", documents(1024, 2.0, 3.0), model)
        make_tables(config, [path], paper(tmp_path), tmp_path / model)
    common = [
        re.findall("All rows: (.*)", (tmp_path / model / "table06.md").read_text())
        for model in ("toy", "mine")
    ]
    words = "model toy, text perplexity, source ours, protocol non-overlapping windows."
    assert common == [[words], []]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("table,base\ntable6,llama2-7b\n", "no column method, fine_tune_window, dataset, setting"),
        (PAPER.replace("6.20", "six"), "line 2: length and value must be numbers"),
        (PAPER + PAPER.splitlines()[1] + "\n", "two numbers for 'YaRN-64k, tuned at 64k', '1k'"),
    ],
)
def test_paper_numbers_that_are_no_such_table_are_refused_in_one_line(text, said, tmp_path):
    (tmp_path / "wrong.csv").write_text(text)
    path = write_evaluation(tmp_path, "base", "none", documents(1024, 2.0, 3.0))
    config = config_of(perplexity={"base": ["none"]}, source=LLAMA2)
    with pytest.raises(UserError, match=said):
        make_tables(config, [path], tmp_path / "wrong.csv", tmp_path)


def test_tables_9_and_10_hold_the_windows_that_were_searched_and_recovered(tmp_path):
    records = [*documents(512, 2.0, 3.0), *documents(2048, 4.0, 5.0)]
    asked = {"base": ["none", "yarn"], "ours-1k": ["extended", "longest", "tuned", "yarn-on-tuned"]}
    at = {"yarn": {512, 2048}, "longest": {512}, "yarn-on-tuned": {2048}}
    paths = [
        write_evaluation(
            tmp_path,
            weights,
            method,
            [each for each in records if each["length"] in at.get(method, {512, 2048})],
        )
        for weights, methods in asked.items()
        for method in methods
    ]
    make_tables(config_of(perplexity=asked), paths, paper(tmp_path), tmp_path)
    second, short = table(tmp_path, "table09"), table(tmp_path, "table10")
    assert second.columns[5:].tolist() == ["2k"] and short.columns[5:].tolist() == ["512"]
    assert second.index.tolist() == [
        "ours-1k, extended (LongRoPE)",
        "ours-1k, as tuned (1k factors)",
        "ours-1k, YaRN on tuned (from 1k)",
        "windows (of documents) scored",
    ]
    assert short.index.tolist() == [
        "ours-1k, extended (LongRoPE), with recovery",
        "ours-1k, 2k factors throughout, without recovery",
        "ours-1k, as tuned (1k factors)",
        "untuned, original RoPE",
        "windows (of documents) scored",
    ]


def test_the_passkey_table_says_what_the_tuning_held_and_how_it_was_scaled(tmp_path):
    records = keys(*[True] * 20)
    paths = [
        write_evaluation(tmp_path, "ours-1k", "extended", records),
        write_evaluation(tmp_path, "yarn-1k", "yarn", records, attention_factor=1.1386),
    ]
    config = config_of(passkey={"ours-1k": ["extended"], "yarn-1k": ["yarn"]})
    make_tables(config, paths, paper(tmp_path), tmp_path)
    found = table(tmp_path, "passkey")
    assert found["1k"].tolist() == ["100 [84, 100]", "100 [84, 100]", "20"]
    assert found["attention factor"].tolist()[:2] == ["1", "1.139"]
    assert found["other than text in tuning"].tolist()[:2] == ["20% digits-5, 10% word", "none"]


def test_the_most_passkeys_of_a_column_and_what_is_not_told_from_them_are_bold(tmp_path):
    """McNemar: 5 prompts that differ are no difference yet (p = 0.06), 7 are (p = 0.02)."""
    found = {("base", "none"): 20, ("base", "pi"): 15, ("base", "yarn"): 13}
    found |= {("ours-1k", "tuned"): 12, ("ours-1k", "extended"): 2}
    paths = [
        write_evaluation(tmp_path, *key, keys(*[n < count for n in range(20)]))
        for key, count in found.items()
    ]
    asked = {"base": ["none", "pi", "yarn"], "ours-1k": ["tuned", "extended"]}
    make_tables(config_of(passkey=asked), paths, paper(tmp_path), tmp_path)
    text = (tmp_path / "passkey.md").read_text()
    bold = [float(each) for each in re.findall(r"\*\*(\d+) \[", text)]
    assert bold == [100, 75, 60]  # untuned ones are not weighed against tuned ones
    assert "Bold: the highest of a column among tuned and among untuned rows" in text


def test_where_nothing_is_found_nothing_is_bold(tmp_path):
    paths = [
        write_evaluation(tmp_path, "base", each, keys(*[False] * 9)) for each in ("none", "pi")
    ]
    make_tables(config_of(passkey={"base": ["none", "pi"]}), paths, paper(tmp_path), tmp_path)
    assert "**0 [" not in (tmp_path / "passkey.md").read_text()


@pytest.mark.parametrize(
    ("task", "name"),
    [
        *[("perplexity", each) for each in get_args(PerplexityShown)],
        *[("passkey", each) for each in get_args(PasskeyShown)],
    ],
)
def test_all_that_a_task_may_be_shown_in_can_be_made_of_it(task, name, tmp_path):
    records = documents(1024, 2.0, 3.0) if task == "perplexity" else keys(True, False)
    paths = [write_evaluation(tmp_path, "base", each, records) for each in ("pi", "yarn")]
    paths += [write_evaluation(tmp_path, "ours-1k", "tuned", records)]
    config = config_of(**{task: {"base": ["pi", "yarn"], "ours-1k": ["tuned"]}})
    config = fitted(config, paths)
    if name in TABLES and name != "tunings":  # of metrics, too
        make_table(name, config, paths, [], paper(tmp_path), tmp_path / name)
    elif name == "summary":
        write_summary(config, paths, tmp_path / "summary.json")
    elif name not in (
        "tunings",
        "figure2",
        "figure5",
        "figure5c",
        "figure6",
    ):  # of factors, losses, traces
        plot(name, config, paths, tmp_path / name)


def test_a_table_without_rows_says_so(tmp_path):
    make_tables(config_of(), [], paper(tmp_path), tmp_path)
    for name in ("table06", "table09", "table10", "passkey"):
        assert "evaluates nothing" in (tmp_path / f"{name}.md").read_text()
        assert table(tmp_path, name).empty and (tmp_path / f"{name}.tex").exists()


# --- summary ----------------------------------------------------------------------------------


def test_a_comparison_that_longrope_loses_is_printed_as_a_loss(tmp_path):
    paths = [
        write_evaluation(tmp_path, "base", "search", documents(1024, 2.2, 3.2)),
        write_evaluation(tmp_path, "base", "yarn", documents(1024, 2.0, 3.0)),
        write_evaluation(tmp_path, "base", "pi", documents(1024, 2.5, 3.5)),
    ]
    config = config_of(perplexity={"base": ["pi", "yarn", "search"]})
    write_summary(fitted(config, paths), paths, tmp_path / "summary.json")
    claims = json.loads((tmp_path / "summary.json").read_text())["models"]["toy"]["claims"]
    outcomes = {claim["id"].split("/")[-1]: claim["outcome"] for claim in claims}
    assert outcomes == {"base.pi": "win", "base.yarn": "loss"}
    assert claims[1]["difference_nats"] == pytest.approx(-0.2)
    text = (tmp_path / "summary.md").read_text()
    assert "win 1, loss 1, tie 0, undecided 0" in text and "| -0.2000 [" in text


def test_the_extended_model_is_set_against_everything_else_that_was_tuned(tmp_path):
    methods = {
        ("base", "yarn"): 3.0,
        ("ours-1k", "extended"): 1.0,
        ("ours-1k", "search"): 1.0,
        ("ours-1k", "yarn-on-tuned"): 1.1,
        ("yarn-1k", "yarn"): 1.2,
    }
    paths = [
        write_evaluation(tmp_path, *key, documents(2048, loss, loss + 1), fingerprint=str(loss))
        for key, loss in methods.items()
    ]
    asked = {"base": ["yarn"], "ours-1k": ["extended", "search", "yarn-on-tuned"]}
    config = config_of(perplexity=asked | {"yarn-1k": ["yarn"]})
    claims = summarise(fitted(config, paths), paths)["models"]["toy"]["claims"]
    assert [claim["id"] for claim in claims] == [  # not search: there it has the same factors
        "toy/perplexity/second-search/2k/ours-1k.extended/ours-1k.yarn-on-tuned",
        "toy/perplexity/second-search/2k/ours-1k.extended/yarn-1k.yarn",
    ]


def test_the_summary_begins_with_what_came_of_the_extension(tmp_path):
    perplexity = {
        ("base", "none"): {256: 20, 2048: 300},
        ("base", "pi"): {2048: 50},
        ("base", "yarn"): {2048: 40},
        ("ours-1k", "extended"): {256: 21, 2048: 25},
        ("ours-1k", "longest"): {256: 22},
    }
    paths = []
    for key, at in perplexity.items():
        lines = [
            line for length, value in at.items() for line in documents(length, math.log(value))
        ]
        paths.append(write_evaluation(tmp_path, *key, lines))
    paths.append(write_evaluation(tmp_path, "base", "none", keys(*[False] * 10)))
    paths.append(write_evaluation(tmp_path, "ours-1k", "extended", keys(*[True] * 9, False)))
    methods = {"base": ["none", "pi", "yarn"], "ours-1k": ["extended", "longest"]}
    asked = {"base": ["none"], "ours-1k": ["extended"]}
    config = fitted(config_of(perplexity=methods, passkey=asked), paths)
    write_summary(config, paths, tmp_path / "summary.json")
    text = (tmp_path / "summary.md").read_text()
    assert "| 256 | 20.00 | – | 21.00 | 1 (1) |" in text
    assert "| 2k | 300.0 | 40.00 (YaRN (from 256)) | 25.00 |" in text
    assert "| 0% | – | 90% |" in text
    assert (
        "At the original window of 256 perplexity was 20.00 before and is 21.00 (+5.0%) with the"
        " factors of that window, 22.00 (+10.0%) with the factors of the longest window" in text
    )
    assert "longrope export --model results/toy/ours-1k/model --factors" in text
    assert text.index("What came of it") < text.index("Left as it is")
    page = (tmp_path / "summary.html").read_text()
    assert "<td align='right'>2k</td>" in page


def test_what_came_of_it_is_set_beside_the_best_of_the_weights_tuned_alike(tmp_path):
    losses = {
        ("base", "yarn"): (4.0, 5.0),
        ("ours-1k", "extended"): (3.0, 4.0),
        ("ours-1k", "yarn-on-tuned"): (3.2, 4.2),
        ("yarn-1k", "yarn"): (3.1, 3.8),
    }
    paths = [
        write_evaluation(tmp_path, *key, documents(2048, *each), fingerprint=str(key))
        for key, each in losses.items()
    ]
    methods = {"base": ["yarn"], "ours-1k": ["extended", "yarn-on-tuned"], "yarn-1k": ["yarn"]}
    config = fitted(config_of(perplexity=methods), paths)
    settings = config.models["toy"]
    said = "\n".join(outcome("toy", settings, summarise(config, paths)["models"]["toy"]))
    ours = f"{math.exp(3.5):.2f}"  # yarn-1k was tuned on other data
    assert f"| 40.45 (ours-1k, YaRN on tuned (from 1k)) | {ours} | better |" in said
    settings.tunings["yarn-1k"] = settings.tunings["ours-1k"].model_copy(update={"method": "yarn"})
    said = "\n".join(outcome("toy", settings, summarise(config, paths)["models"]["toy"]))
    assert f"| {math.exp(3.45):.2f} (yarn-1k, YaRN) | {ours} | not told apart |" in said


def test_a_search_that_ended_on_the_best_formula_is_not_called_better(tmp_path):
    methods = {"search": (3.0, "same"), "pi": (3.0, "same"), "yarn": (4.0, "another")}
    paths = [
        write_evaluation(tmp_path, "base", key, documents(1024, loss, loss), fingerprint=of)
        for key, (loss, of) in methods.items()
    ]
    config = fitted(config_of(perplexity={"base": [*methods]}), paths)
    settings = config.models["toy"].model_copy(update={"extension": None})
    config.models["toy"] = settings
    said = "\n".join(outcome("toy", settings, summarise(config, paths)["models"]["toy"]))
    assert "| 20.09 (PI (from 256)) | 20.09 | the same factors |" in said


def test_the_summary_ends_with_what_every_file_of_the_configuration_shows():
    config = load_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    said = index(config)
    assert "| `tables/table06.md` | Perplexity by length, as on Books3 |" in said
    assert "| `figures/figure1.png` | Perplexity over context length |" in said
    assert "| `tables/table01.md` | Searched factors without tuning (made by the target" in said
    assert len(re.findall(r"`(?:tables|figures)/", said)) == len(shown(config, CONTENTS)) - 1


def test_the_columns_of_words_are_wide_enough_to_read_beside_numbers():
    page = page_of(f"| a | b | c |\n| :-- | --: | :-- |\n| {'so ' * 10}| 1 | ab |")
    assert page.count("class='words'") == 1 and f"class='words'>{'so ' * 9}so</td>" in page


def test_a_model_that_was_only_searched_is_said_to_keep_its_window(tmp_path):
    perplexity = {
        ("base", "none"): {256: 20, 1024: 300},
        ("base", "search"): {1024: 25},
        ("base", "longest"): {256: 30},
    }
    paths = []
    for key, at in perplexity.items():
        lines = [
            line for length, value in at.items() for line in documents(length, math.log(value))
        ]
        paths.append(write_evaluation(tmp_path, *key, lines))
    config = fitted(config_of(perplexity={"base": ["none", "search", "longest"]}), paths)
    model = config.models["toy"].model_copy(update={"extension": None, "tunings": {}})
    said = "\n".join(outcome("toy", model, summarise(config, paths)["models"]["toy"]))
    assert "| 1k | 300.0 | – | 25.00 |" in said
    assert "20.00 before and is 30.00 (+50.0%) with the factors of the longest window" in said
    assert 'longrope.load("results/toy/base/model", "results/toy/base/factors/search/' in said


def test_passkeys_are_compared_prompt_by_prompt_and_losses_printed(tmp_path):
    few, many = keys(*[False] * 10), keys(*[True] * 9, False)
    paths = [
        write_evaluation(tmp_path, "base", method, found)
        for method, found in {"search": few, "yarn": many, "pi": keys(*[False] * 9, True)}.items()
    ]
    config = config_of(passkey={"base": ["pi", "yarn", "search"]})
    write_summary(fitted(config, paths), paths, tmp_path / "summary.json")
    tested = json.loads((tmp_path / "summary.json").read_text())["models"]["toy"]["retrieval"]
    outcomes = {claim["than"]["method"]: (claim["found"], claim["outcome"]) for claim in tested}
    assert outcomes == {"pi": ([0, 1], "tie"), "yarn": ([0, 9], "loss")}
    assert "| 0 and 9 of 10 | loss |" in (tmp_path / "summary.md").read_text()


def test_the_blow_up_is_the_ratio_to_the_original_window(tmp_path):
    records = documents(256, math.log(20)) + documents(1024, math.log(50))
    passkey = [{"length": 1024, "prompts": 10, "found": 5, "trials": []}]
    paths = [write_evaluation(tmp_path, "base", "none", each) for each in (records, passkey)]
    config = config_of(perplexity={"base": ["none"]}, passkey={"base": ["none"]})
    found = summarise(fitted(config, paths), paths)["models"]["toy"]
    assert found["blow_up"]["perplexity"] == pytest.approx(20)
    assert found["blow_up"]["longer"]["1k"]["ratio"] == pytest.approx(2.5)
    assert found["passkey"]["passkey"]["base"]["none"]["1k"]["accuracy"] == 0.5


# --- figures ----------------------------------------------------------------------------------


def test_a_figure_draws_the_same_bytes_twice_and_its_csv_says_what(tmp_path):
    records = documents(256, 3.0, 3.1) + documents(2048, 8.0, 8.0)
    path = write_evaluation(tmp_path, "base", "none", records)
    config = config_of(perplexity={"base": ["none"]})
    for stem in ("a", "b"):
        plot("figure1", fitted(config, [path]), [path], tmp_path / stem)
    drawn = pd.read_csv(tmp_path / "a.csv")
    assert drawn.perplexity.tolist() == pytest.approx([math.exp(3.05), math.exp(8)])
    assert drawn.above_axis.tolist() == [False, True]
    for ending in ("png", "pdf", "html", "csv"):
        first, second = ((tmp_path / f"{stem}.{ending}").read_bytes() for stem in ("a", "b"))
        assert first == second
    carried = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    assert f"base64,{carried}" in (tmp_path / "a.html").read_text()


def write_trace(folder: Path, *scores: tuple) -> Path:
    """A trace of (start or None, mu, document, loss, best perplexity so far or None); 10 tokens
    forwarded for each.
    """
    lines = []
    for step, (start, mu, document, loss, best) in enumerate(scores, 1):
        line = {"step": step, "generation": step // 4, "start": start, "n_hat": 0, "mu": mu}
        line |= {"attention": None, "critical": 0, "sample": document, "fitness": loss}
        line |= {"losses": {"perplexity": loss}, "best_fitness": best and math.log(best)}
        lines.append(line | {"best_perplexity": best, "tokens": 10 * step, "seconds": 0.1})
    path = folder / "results/toy/base/factors/search/1k/trace.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_figure_6_draws_the_best_so_far_by_tokens_and_names_what_the_search_started_from(tmp_path):
    perplexity = [90.0, 40.0, 35.0, 36.0, 34.0]
    starts = ["pi", "ntk", "yarn", "mrrope-pro from 512, tempered", None]
    path = write_trace(
        tmp_path,
        *[
            (start, [1.0 + step], 0, math.log(perplexity[step]), min(perplexity[: step + 1]))
            for step, start in enumerate(starts)
        ],
    )
    plot("figure6", config_of(), [path], tmp_path / "figure6")
    drawn = pd.read_csv(tmp_path / "figure6.csv", keep_default_na=False)
    assert drawn.start.tolist() == [start or "" for start in starts]
    assert drawn.tokens.tolist() == [10, 20, 30, 40, 50]
    assert drawn.perplexity.tolist() == pytest.approx(perplexity)
    assert drawn.best_perplexity.tolist() == [90, 40, 35, 35, 34]
    assert set(drawn.minimised) == {"perplexity"}
    assert drawn.above_axis.tolist() == [True, True, False, True, False]
    with pytest.raises(UserError, match="expected a path that ends like"):
        plot("figure6", config_of(), [tmp_path / "trace.jsonl"], tmp_path / "figure6")


# The found factors, [1, 4], lose 2 nats a token on the first document, 4 on the second.
SEARCH = (
    ("pi", [4.0, 4.0], 0, None, None),
    ("yarn from 512", [1.0, 3.5], 0, 2.5, None),
    ("yarn from 512, tempered", [1.0, 3.6], 1, 4.25, None),
    ("ntk", [1.0, 3.0], 0, 2.1, None),
    ("ntk", [1.0, 3.0], 1, 4.7, math.exp(3.4)),
    (None, [1.0, 4.0], 1, 4.0, math.exp(3.4)),
    (None, [1.0, 4.0], 0, 2.0, math.exp(3.0)),
    (None, [1.0, 5.0], 0, 1.0, math.exp(3.0)),
)


def test_a_candidate_that_missed_documents_is_set_beside_the_best_on_those_it_has(tmp_path):
    """The last one is the best on the first document, but did not finish: it is not the winner."""
    tried = read_trace(write_trace(tmp_path, *SEARCH))
    expected = [math.inf, *np.exp([3.5, 3.25, 3.4, 3.0, 2.0])]
    assert tried.perplexity.tolist() == pytest.approx(expected)
    assert tried.documents.tolist() == [1, 1, 1, 2, 2, 1]
    assert tried.found.tolist() == [False, False, False, False, True, False]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    found, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda own, *a, **b: (found.append(own), save(own, *a, **b))
    )
    return found


@pytest.fixture
def searched(tmp_path, figures):
    """Draws factors and the trace SEARCH; gives both panels."""

    def draw(*lambda_: float, n_hat: int = 0, multiplies: int | None = None) -> list:
        rope, origin = Rope("toy", 10000.0, 4, 256, "x"), {"multiplies": multiplies}
        factors = RescaleFactors(rope, 1024, "search", lambda_, n_hat, 1.0, origin)
        write_factors(tmp_path / "factors.json", factors)
        trace = write_trace(tmp_path, *SEARCH)
        plot_search(tmp_path / "factors.json", trace, tmp_path / "search.png")
        assert (tmp_path / "search.png").stat().st_size > 10_000
        return figures[0].axes

    return draw


def test_a_second_search_is_drawn_with_the_factors_that_it_multiplies(searched):
    panel, _ = searched(1.5, 40.0, multiplies=512)
    drawn = {line.get_label(): list(line.get_ydata()) for line in panel.get_lines()}
    assert drawn.pop("NTK") == pytest.approx([1.5, 30])
    assert drawn.pop("PI") == pytest.approx([6, 40])
    assert drawn.pop("YaRN from 512 + temperature") == pytest.approx([1.5, 36])  # YaRN's better one
    assert drawn == {"found": [1.5, 40.0]}


def test_a_line_from_a_name_to_its_end_is_not_drawn_like_data(tmp_path, figures):
    paths = [write_evaluation(tmp_path, "base", "yarn", documents(1024, 1.0, 2.0))]
    config = fitted(config_of(perplexity={"base": ["yarn"]}), paths)
    plot("figure1", config, paths, tmp_path / "figure1")
    (axes,) = figures[0].axes
    leader = next(text for text in axes.texts if "YaRN" in text.get_text()).arrow_patch
    (data,) = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
    assert leader.get_edgecolor() != to_rgba(data.get_color())
    assert leader.get_linestyle() != data.get_linestyle()


def test_a_start_that_nothing_beat_is_not_drawn_as_found(tmp_path, figures):
    scores = [("yarn", [2.0], 0, math.log(30), 30.0), (None, [3.0], 0, math.log(40), 30.0)]
    plot("figure6", config_of(), [write_trace(tmp_path, *scores)], tmp_path / "figure6")
    names = [text.get_text() for text in figures[0].axes[0].texts]
    assert "none better than YaRN 30" in names and not any("found" in name for name in names)


def test_progress_begins_with_the_first_candidate_that_all_documents_scored(searched):
    _, panel = searched(1.0, 4.0)
    curve = next(line for line in panel.get_lines() if line.get_drawstyle() == "steps-post")
    points = [(x, y) for x, y in zip(*curve.get_data(), strict=True) if not math.isnan(y)]
    first, second = math.exp(3.4), math.exp(3.0)
    assert points == [(50, first), (70, second), (80, second)]
    low, high = panel.get_ylim()
    assert low < second and math.exp(3.25) < high < first  # up to the nearest start
    names = [text.get_text() for text in panel.texts]
    assert f"YaRN from 512 + temperature ≈ {math.exp(3.25):.4g}" in names
    assert f"NTK  ↑ {first:.4g}" in names and "PI ≈  ↑ inf" in names


SMALL = Evolution(name="evolution", population=16, mutations=8, crossovers=8, parents=8)


class Needles(Toy):
    """Needles want larger factors than perplexity does."""

    def score(self, factors: RescaleFactors, sample: int) -> Score:
        logs = np.log(factors.lambda_)
        losses = {"perplexity": convex(logs, sample, factors.n_hat)}
        losses["needle"] = ((logs - math.log(8)) ** 2).mean() + 0.1 * sample
        return Score(losses["perplexity"] + 3 * losses["needle"], losses)


def test_where_needles_count_the_curves_are_of_the_fitness_and_never_rise(tmp_path, figures):
    path = tmp_path / "results/toy/base/factors/search/1k/trace.jsonl"
    found = toy_search(SMALL, path, 400, Needles())
    tried = read_trace(path)
    assert tried.best_perplexity.diff().max() > 0  # which made a rising curve of perplexity
    lambda_, losses = tuple(value / 100 for value in found.best.mu), found.score.losses
    factors = RescaleFactors(TOY_ROPE, 2048, "search", lambda_, found.best.n_hat, 1.0)
    write_factors(tmp_path / "factors.json", factors)
    plot_search(tmp_path / "factors.json", path, tmp_path / "search.png")
    plot("figure6", config_of(), [path], tmp_path / "figure6")
    for panel in (figures[0].axes[1], figures[1].axes[0]):
        curve = next(line for line in panel.get_lines() if line.get_drawstyle() == "steps-post")
        best = curve.get_ydata()[~np.isnan(curve.get_ydata())]
        assert len(best) > 10 and (np.diff(best) <= 0).all()
        assert best[-1] == pytest.approx(found.score.fitness)
        assert panel.get_ylabel() == "fitness (nats a token)"
    (heading,) = (text.get_text() for text in figures[0].texts)
    beside = f"perplexity {math.exp(losses['perplexity']):.4g}, needle {losses['needle']:.3g}"
    assert f"fitness {found.score.fitness:.4g} ({beside}) after" in heading
    drawn = pd.read_csv(tmp_path / "figure6.csv")
    assert set(drawn.minimised) == {"fitness"} and drawn.best_fitness.diff().max() <= 0


@pytest.mark.parametrize(("lambda_", "n_hat"), [((1.0, 4.0), 8), ((1.0, 3.9), 0)])
def test_factors_are_not_drawn_with_the_trace_of_another_search(searched, lambda_, n_hat):
    with pytest.raises(UserError, match="take both from one search"):
        searched(*lambda_, n_hat=n_hat)


def test_a_search_that_scored_nothing_on_all_documents_is_refused(tmp_path):
    with pytest.raises(UserError, match="no candidate has a finite loss on every document"):
        read_trace(write_trace(tmp_path, *SEARCH[:4]))


def test_figure_5_draws_every_step_of_every_tuning(tmp_path):
    path = tmp_path / "results/toy/yarn-1k/training/metrics.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f'{{"step": {n + 1}, "loss": {3 - n % 2}}}\n' for n in range(15)))
    plot("figure5", config_of(), [path], tmp_path / "figure5")
    drawn = pd.read_csv(tmp_path / "figure5.csv")
    assert drawn.loss.tolist() == [3 - n % 2 for n in range(15)]
    assert drawn.smoothed[7] == pytest.approx((3 + 2 + 3) / 3)
    assert set(drawn.weights) == {"yarn-1k"}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_records_is_still_drawn(tmp_path, name):
    plot(name, config_of(), [], tmp_path / name)
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([0.2, 0.5], [0.2, 0.5]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.0, 0.0, 0.9], [0.0, 0.1, 0.9]),
        ([1.0, 1.0, 1.0], [0.8, 0.9, 1.0]),
    ],
)
def test_names_keep_their_distance_and_stay_beside_the_panel(wanted, places):
    assert spread(wanted, 0.1) == pytest.approx(places)


def test_a_report_needs_neither_torch_nor_transformers():
    code = (
        "import sys; import longrope.report.figures, longrope.report.search,"
        " longrope.report.summary, longrope.report.tables;"
        " sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
