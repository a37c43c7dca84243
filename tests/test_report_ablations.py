"""Tables of ablations, Figure 2 and the heat map, of records whose numbers are known by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from evaluations import documents, fitted, write_evaluation
from longrope.checks import load_config
from longrope.config import Config
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, write_factors
from longrope.report.figures import plot
from longrope.report.tables import make_table

STUDY = """
seed: 1
corpora: {books: {source: {kind: text, files: ["*.txt"]}, splits: {}}}
models:
  toy:
    source: {kind: folder, path: model}
    original_window: 256
    corpus: books
    search: {1k: {evaluations: 8}}
    variants: {search-dimensions: {windows: [1k, 2k], space: {kind: paper, vary: [lambda]}}}
    tunings:
      pi-1k: &tuning {method: pi, window: 1k, steps: 4, batch: 2, learning_rate: 0.001}
      ours-1k: {<<: *tuning, method: search}
      short: {<<: *tuning, start: ours-1k, length: 512}
    extension: {weights: ours-1k, search: {2k: {evaluations: 8}}}
    evaluation:
      plays: &texts {task: perplexity, windows: {512: 2, 1k: 2, 2k: 2}, methods: METHODS}
      novels: {<<: *texts}
"""
PAPER = Path(__file__).parents[1] / "resources/paper/tables.csv"


def config_of(methods: dict[str, list[str]]) -> Config:
    raw = yaml.safe_load(STUDY.replace("METHODS", "{}"))
    for evaluation in raw["models"]["toy"]["evaluation"].values():
        evaluation["methods"] = methods
    return load_config(raw)


def made(folder: Path, name: str, config: Config, records: list[Path]) -> pd.DataFrame:
    make_table(name, fitted(config, records), records, [], PAPER, folder / name)
    return pd.read_csv(folder / f"{name}.csv", dtype=str).set_index("weights, method")


def losses(**at: float) -> list[dict]:
    """Records of two documents at each length, the second a nat above the first."""
    lengths = {"at512": 512, "at1k": 1024, "at2k": 2048}
    return [each for key, loss in at.items() for each in documents(lengths[key], loss, loss + 1)]


def perplexity(loss: float) -> str:
    return f"{math.exp(loss + 0.5):.2f}"


def test_table_1_has_the_untuned_rows_of_every_text(tmp_path):
    methods = {"base": ["pi", "search"], "pi-1k": ["tuned"]}
    paths = [
        write_evaluation(tmp_path, "base", "pi", losses(at1k=2.0), name="plays"),
        write_evaluation(tmp_path, "base", "search", losses(at1k=1.5), name="plays"),
        write_evaluation(tmp_path, "base", "pi", losses(at1k=1.2), name="novels"),
        write_evaluation(tmp_path, "pi-1k", "tuned", losses(at1k=1.0), name="plays"),
    ]
    table = made(tmp_path, "table01", config_of(methods), paths)
    ours = table[table["1k"].str.contains(r"\.")]
    assert ours.text.tolist() == ["plays", "plays", "novels"]
    assert ours["1k"].tolist() == [perplexity(each) for each in (2.0, 1.5, 1.2)]


def test_table_2_has_a_column_for_every_n_hat_and_compares_within_a_row(tmp_path):
    found = {"pi": 2.0, "pi-n16": 1.5, "ntk": 1.0, "ntk-n16": 1.25}
    paths = [
        write_evaluation(tmp_path, "base", method, losses(at1k=loss), name="plays")
        for method, loss in found.items()
    ]
    table = made(tmp_path, "table02", config_of({"base": list(found)}), paths)
    rows = table.loc[["PI (from 256), 1k", "NTK (from 256), 1k"]]
    assert rows["n_hat = 0"].tolist() == [perplexity(2.0), perplexity(1.0)]
    assert rows["n_hat = 16"].tolist() == [perplexity(1.5), perplexity(1.25)]
    text = (tmp_path / "table02.md").read_text()
    assert f"**{perplexity(1.5)}**" in text and f"**{perplexity(1.0)}**" in text
    assert f"**{perplexity(2.0)}**" not in text and f"**{perplexity(1.25)}**" not in text


def test_every_critical_pair_has_a_row_of_its_own_in_table_2_that_says_which(tmp_path):
    found = {"yarn-critical": 1.0, "yarn-critical-c1": 1.5, "yarn-critical-c2-n8": 2.0}
    paths = [
        write_evaluation(tmp_path, "base", method, losses(at1k=loss), name="plays")
        for method, loss in found.items()
    ]
    table = made(tmp_path, "table02", config_of({"base": list(found)}), paths)
    column = "n_hat = 0"
    assert table.loc["YaRN at the theoretical critical pair (from 256), 1k", column] == "4.48"
    assert table.loc["YaRN at pair 1 (from 256), 1k", column] == "7.39"
    assert table.loc["YaRN at pair 2 (from 256), 1k", "n_hat = 8"] == "12.18"


def test_two_evaluations_for_one_cell_are_an_error_that_names_both(tmp_path):
    paths = [
        write_evaluation(tmp_path, "base", method, losses(at1k=2.0), name="plays")
        for method in ("pi", "pi-n0")
    ]
    with pytest.raises(UserError, match=r"plays/pi.json and .*plays/pi-n0.json are both 'PI"):
        made(tmp_path, "table02", config_of({"base": ["pi", "pi-n0"]}), paths)
    paths = [
        write_evaluation(tmp_path, "ours-1k", method, losses(at2k=2.0), name="plays")
        for method in ("pi", "pi-on-tuned")
    ]
    with pytest.raises(UserError, match="'PI', '2k, second interpolation': show one of them"):
        made(tmp_path, "table11", config_of({"ours-1k": ["pi", "pi-on-tuned"]}), paths)


def test_tunings_of_one_method_at_one_window_have_a_row_each_in_table_3(tmp_path):
    methods = {"base": ["pi"], "pi-1k": ["tuned"], "short": ["tuned"]}
    found = {("base", "pi"): 2.0, ("pi-1k", "tuned"): 1.0, ("short", "tuned"): 1.5}
    paths = [
        write_evaluation(tmp_path, *key, losses(at1k=loss), name="plays")
        for key, loss in found.items()
    ]
    table = made(tmp_path, "table03", config_of(methods), paths)
    rows = table.loc[["PI (from 256): pi-1k", "PI (from 256): short"]]
    assert rows["1k, untuned"].tolist() == [perplexity(2.0)] * 2
    assert rows["1k, tuned"].tolist() == [perplexity(1.0), perplexity(1.5)]


def test_table_3_sets_the_same_factors_before_and_after_tuning(tmp_path):
    methods = {"base": ["pi", "search"], "pi-1k": ["tuned"], "ours-1k": ["tuned"]}
    found = {("base", "pi"): 3.0, ("base", "search"): 2.0}
    found |= {("pi-1k", "tuned"): 1.0, ("ours-1k", "tuned"): 0.5}
    paths = []
    for key, loss in found.items():
        beyond = {} if key == ("base", "search") else {"at2k": 9.0}  # it was not searched at 2k
        records = losses(at1k=loss, **beyond)
        paths.append(write_evaluation(tmp_path, *key, records, name="plays"))
    table = made(tmp_path, "table03", config_of(methods), paths)
    rows = table.loc[["PI (from 256)", "search (LongRoPE)"]]
    assert rows["1k, untuned"].tolist() == [perplexity(3.0), perplexity(2.0)]
    assert rows["1k, tuned"].tolist() == [perplexity(1.0), perplexity(0.5)]
    assert "2k, tuned" not in table  # beyond what they were tuned at


@pytest.fixture
def both_searches(tmp_path):
    """Table 11 of a first search at 1k on plays and a second one at 2k on novels."""

    def make(*more: tuple[str, str, str, dict], novels: str = "stride") -> pd.DataFrame:
        raw = yaml.safe_load(STUDY.replace("METHODS", "{}"))
        texts = raw["models"]["toy"]["evaluation"]
        texts["plays"]["methods"] = {"base": ["pi", "search-dimensions"]}
        texts["novels"]["methods"] = {"ours-1k": ["pi-on-tuned", "search-dimensions", "extended"]}
        losses_of = [
            ("plays", "base", "pi", {"at1k": 3.0}),
            ("plays", "base", "search-dimensions", {"at1k": 2.0}),
            ("novels", "ours-1k", "pi-on-tuned", {"at2k": 2.5}),
            ("novels", "ours-1k", "search-dimensions", {"at2k": 1.5}),
            ("novels", "ours-1k", "extended", {"at2k": 1.0}),
            *more,
        ]
        for text, weights, method, _ in more:
            texts[text]["methods"].setdefault(weights, []).append(method)
        texts["novels"]["mode"] = novels
        paths = [
            write_evaluation(tmp_path, weights, method, losses(**at), name=text)
            for text, weights, method, at in losses_of
        ]
        for path in paths:
            if "novels" in path.parts:
                text = path.read_text().replace('"mode": "stride"', f'"mode": "{novels}"')
                path.write_text(text)
        return made(tmp_path, "table11", load_config(raw), paths)

    return make


def test_table_11_puts_both_searches_of_one_kind_in_one_row(both_searches):
    table, columns = both_searches(), ["1k, untuned", "2k, second interpolation"]
    assert table.columns[5:].tolist() == columns
    assert table.loc["PI", columns].tolist() == [perplexity(3.0), perplexity(2.5)]
    dimensions = table.loc["search: dimensions", columns]
    assert dimensions.tolist() == [perplexity(2.0), perplexity(1.5)]
    assert table.loc["search (LongRoPE)", columns[1]] == perplexity(1.0)


def test_a_row_of_two_evaluations_says_how_each_was_measured(both_searches):
    table = both_searches(novels="truncate")
    assert table.protocol["PI"] == "non-overlapping windows; one window at the start"
    assert table.protocol["search (LongRoPE)"] == "one window at the start"


def test_table_11_says_the_text_where_two_have_the_same_column(both_searches):
    table = both_searches(("plays", "ours-1k", "pi-on-tuned", {"at2k": 4.0}))
    second = "2k, second interpolation"
    columns = ["1k, untuned", f"{second} (novels)", f"{second} (plays)"]
    assert table.columns[5:].tolist() == columns
    assert table.loc["PI", columns].tolist() == list(map(perplexity, (3.0, 2.5, 4.0)))


def test_table_12_says_which_way_each_tuning_came(tmp_path):
    methods = {"ours-1k": ["tuned"], "short": ["tuned"]}
    paths = [
        write_evaluation(tmp_path, weights, "tuned", losses(at512=1.0), name="plays")
        for weights in methods
    ]
    table = made(tmp_path, "table12", config_of(methods), paths)
    assert table.index.tolist()[:2] == [
        "text 1k, window 1k, from untuned: ours-1k, as tuned (1k factors)",
        "text 512, window 1k, from ours-1k: short, as tuned (1k factors)",
    ]


def test_figure_2_draws_what_the_factors_do_to_a_pair(tmp_path):
    rope = Rope("toy", 10000.0, 8, 256, "x")
    factors = RescaleFactors(rope, 1024, "search", (1.0, 1.5, 3.0, 4.0), 16, 1.0)
    write_factors(tmp_path / "factors.json", factors)
    plot("figure2", config_of({}), [tmp_path / "factors.json"], tmp_path / "figure2")
    drawn = pd.read_csv(tmp_path / "figure2.csv")
    slow = drawn[drawn.pair == 2]
    for scheme, stretch in {"extrapolation": 1.0, "PI": 4.0, "LongRoPE": 3.0}.items():
        line = slow[slow.scheme == scheme]
        position, cosine = line.position.to_numpy(), line.cosine.to_numpy()
        left = (position < 16) & (scheme == "LongRoPE")
        angle = position / np.where(left, 1.0, stretch) * 10000.0 ** (-4 / 8)
        np.testing.assert_allclose(cosine, np.cos(angle), atol=1e-12)


def test_the_heat_map_counts_keys_by_depth(tmp_path):
    raw = yaml.safe_load(STUDY.replace("METHODS", "{}"))
    asked = {"task": "passkey", "prompts": {"1k": 4}, "methods": {"base": ["none"]}}
    raw["models"]["toy"]["evaluation"] = {"passkey": asked}
    trials = [
        {"key": "1", "depth": depth, "found": found}
        for depth, found in [(0.0, True), (0.19, False), (0.2, True), (1.0, True)]
    ]
    records = [{"length": 1024, "prompts": 4, "found": 3, "trials": trials}]
    path = write_evaluation(tmp_path, "base", "none", records)
    plot("depths", fitted(load_config(raw), [path]), [path], tmp_path / "depths")
    drawn = pd.read_csv(tmp_path / "depths.csv")
    assert drawn[["depth", "found", "prompts"]].to_numpy().tolist() == [
        [0.0, 1, 2],
        [0.2, 1, 1],
        [0.8, 1, 1],
    ]
