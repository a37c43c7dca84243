"""The paper's numbers: each in the row and the column that it has there, beside ours."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from evaluations import documents, fitted, write_evaluation
from longrope.checks import load_config
from longrope.config.evaluation import ABLATIONS, MAIN
from longrope.paper_models import CHECKPOINTS, base_of, checkpoint_of
from longrope.report.labels import row_label
from longrope.report.tables import make_table
from longrope.targets import evaluations, shown
from longrope.windows import window_label

STUDY = """
seed: 1
corpora: {books: {source: {kind: text, files: ["*.txt"]}, splits: {}}}
models:
  study:
    source: {kind: hub, name: meta-llama/Llama-2-7b-hf}
    original_window: 4k
    corpus: books
    search: &search {8k: {evaluations: 8}, 128k: {evaluations: 8}}
    tunings:
      pi-64k: &tuning {method: pi, window: 64k, steps: 4, batch: 2, learning_rate: 0.001}
      longrope-128k: {<<: *tuning, method: search, window: 128k}
    extension:
      weights: longrope-128k
      search: {256k: {evaluations: 8}, 2048k: {evaluations: 8}}
      recovery: {8k: {evaluations: 8}}
    evaluation:
      first: &text {task: perplexity, windows: {8k: 2}}
      other: {<<: *text}
  yarn:
    source: {kind: hub, name: NousResearch/Yarn-Llama-2-7b-64k}
    original_window: 64k
    rope: own
    corpus: books
    evaluation: {first: {<<: *text}}
  mistral:
    source: {kind: hub, name: mistralai/Mistral-7B-v0.1}
    original_window: 4k
    corpus: books
    evaluation: {first: {<<: *text}}
"""
PAPER = Path(__file__).parents[1] / "resources/paper/tables.csv"
NAMES = {
    "pi": "PI",
    "dynamic-ntk": "Dynamic NTK",
    "yarn": "YaRN",
    "search-dim": "LongRoPE, lambda",
    "search-dim-start": "LongRoPE, lambda and n_hat",
    "original": "original",
    "together-32k": "Together-32k",
    "longlora-100k": "LongLoRA-100k",
    "codellama-100k": "Code LLaMA-100k",
    "yarn-64k": "YaRN-64k",
    "yarn-128k": "YaRN-128k",
    "longrope": "LongRoPE",
    "longrope-2048k": "LongRoPE-2048k",
}
Place = tuple[str, str]  # label of the row, heading of the column


def made(folder: Path, name: str, *asked: tuple[str, str, str, str, list[int]]) -> pd.DataFrame:
    """A table of evaluations: model, text, weights, method and lengths."""
    raw, paths = yaml.safe_load(STUDY), []
    for model, text, weights, method, _ in asked:
        methods = raw["models"][model]["evaluation"][text].setdefault("methods", {})
        methods.setdefault(weights, []).append(method)
    for model, text, weights, method, lengths in asked:
        records = [each for length in lengths for each in documents(length, 2.0, 3.0)]
        path = write_evaluation(folder / model, weights, method, records, model, name=text)
        paths.append(path)
    config = fitted(load_config(raw), paths)
    make_table(name, config, paths, [], PAPER, folder / name)
    return pd.read_csv(folder / f"{name}.csv", dtype=str).set_index("weights, method")


def tuned(line: dict) -> str:
    window = line["fine_tune_window"]
    return NAMES[line["method"]] + (f", tuned at {window_label(int(window))}" if window else "")


def at(line: dict) -> str:
    return window_label(int(line["length"]))


def by_length(line: dict) -> Place:
    return tuned(line), at(line)


def by_n_hat(line: dict) -> Place:
    return f"{NAMES[line['method']]}, {at(line)}", "n_hat = " + line["setting"].split("n_hat=")[1]


def before_and_after(line: dict) -> Place:
    state = "tuned" if line["fine_tune_window"] else "untuned"
    return NAMES[line["method"]], f"{at(line)}, {state}"


def by_recovery(line: dict) -> Place:
    averaged = line["metric"] == "accuracy_percent"
    return f"{tuned(line)}, {line['setting']}", "average of benchmarks" if averaged else at(line)


def by_search(line: dict) -> Place:
    second = line["setting"] == "second search"
    state = "second interpolation" if second else "untuned"
    return NAMES[line["method"]], f"{at(line)}, {state}"


def by_route(line: dict) -> Place:
    return f"{line['setting']}: {tuned(line)}", at(line)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("table01", by_length),
        ("table02", by_n_hat),
        ("table03", before_and_after),
        ("table05", by_length),
        ("table06", by_length),
        ("table07", by_length),
        ("table09", by_length),
        ("table10", by_recovery),
        ("table11", by_search),
        ("table12", by_route),
    ],
)
def test_every_number_of_the_paper_stands_in_its_row_and_column(name, place: Callable, tmp_path):
    table = made(tmp_path, name, ("study", "first", "base", "pi", [8192]))
    printed = table.query("source == 'paper'")
    numbers = pd.read_csv(PAPER, dtype=str, keep_default_na=False)
    numbers = numbers.query(f"table == '{name.replace('e0', 'e')}' and base == 'llama2-7b'")
    rows = set()
    for line in numbers.to_dict("records"):
        label, column = place(line)
        here = printed.loc[[label]]
        here = here[here.protocol.str.contains(line["dataset"])]
        value = line["value"]
        if line["bound"]:
            value = f">10^{len(str(int(float(value)))) - 1}"
        assert here[column].tolist() == [value], (label, column)
        rows.add((label, here.protocol.iloc[0]))
    assert len(rows) == len(printed)  # and there is no other row


def test_our_numbers_stand_in_the_columns_of_the_paper_s(tmp_path):
    study = [
        ("study", "first", "base", "pi", [8192, 16384]),
        ("study", "other", "longrope-128k", "extended", [8192, 2097152]),
    ]
    table = made(tmp_path, "table11", *study)
    assert table.columns[5:].tolist() == [
        "8k, untuned",
        "16k, untuned",
        "32k, untuned",
        "8k, second interpolation",
        "2048k, second interpolation",
    ]
    pi = table.loc["PI"].set_index("source")
    assert pi.loc["ours", "16k, untuned"] == "12.18" and pi.loc["paper", "16k, untuned"] == "14.88"
    assert pi.loc["paper", "2048k, second interpolation"] == "20.17"
    assert pi.loc["paper", "protocol"] == "pg19: no fine-tuning; books3: second search"
    table = made(
        tmp_path / "3",
        "table03",
        ("study", "first", "base", "pi", [65536]),
        ("study", "first", "pi-64k", "tuned", [65536]),
    )
    columns = ["64k, untuned", "64k, tuned"]
    assert table.columns[5:].tolist() == columns
    assert table.loc["PI (from 4k)", columns].tolist() == ["12.18", "12.18"]
    assert table.loc["PI", columns].tolist() == ["72.54", "2.44"]


def test_columns_stand_in_the_order_of_what_they_mean_ours_among_the_paper_s(tmp_path):
    table = made(
        tmp_path,
        "table02",
        ("study", "first", "base", "pi-n24", [8192]),
        ("study", "first", "base", "pi-n1", [8192]),
    )
    expected = [0, 1, 2, 4, 8, 16, 24, 32, 64, 128, 256]
    assert table.columns[5:].tolist() == [f"n_hat = {each}" for each in expected]
    asked = ("study", "first", "longrope-128k", "extended", [8192])
    table = made(tmp_path / "10", "table10", asked)
    assert table.columns[5:].tolist() == ["4k", "8k", "average of benchmarks"]


def test_the_paper_s_rows_stand_once_below_the_last_text_of_their_model(tmp_path):
    table = made(
        tmp_path,
        "table01",
        ("study", "first", "base", "pi", [8192]),
        ("study", "other", "base", "pi", [8192]),
        ("mistral", "first", "base", "pi", [8192]),
    )
    assert table.source.tolist() == ["ours"] * 4 + ["paper"] * 8 + ["ours"] * 2
    assert table.text.tolist()[:4] == ["first", "first", "other", "other"]


def test_a_published_checkpoint_has_the_paper_s_name_and_its_rows_above_the_paper_s(tmp_path):
    study = [
        ("study", "first", "base", "pi", [8192]),
        ("yarn", "first", "base", "none", [8192]),
        ("mistral", "first", "base", "pi", [8192]),
    ]
    table = made(tmp_path, "table05", *study)
    ours, paper = "YaRN-64k as published, own RoPE", "YaRN-64k, tuned at 64k"
    assert table.loc[ours, "8k"] == "12.18"
    llama2 = table[table.model == "llama2-7b"]
    assert llama2.loc[paper, "8k"] == "3.51"
    order = table.index.tolist()
    assert order.index(ours) < order.index("original") < order.index("untuned, PI (from 4k)", 1)


def test_the_paper_s_configuration_makes_every_table_and_figure_of_the_paper():
    config = load_config(yaml.safe_load((PAPER.parents[2] / "config/paper.yaml").read_text()))
    ours = {"searches", "fitness", "tunings", "summary", "passkey", "retrieval", "depths"}
    assert set(shown(config, (*MAIN, *ABLATIONS))) >= {*MAIN, *ABLATIONS} - ours


def test_the_paper_s_configuration_measures_what_every_number_of_the_paper_is_of():
    """Lengths of tables by length; and every checkpoint in each table that has it."""
    config = load_config(yaml.safe_load((PAPER.parents[2] / "config/paper.yaml").read_text()))
    numbers = pd.read_csv(PAPER, dtype=str, keep_default_na=False)
    missing = set()
    for line in numbers.to_dict("records"):
        table = (
            line["table"].replace("table", "table0") if len(line["table"]) < 7 else line["table"]
        )
        models = {
            model
            for model, settings in config.models.items()
            if base_of(settings) == line["base"]
            if checkpoint_of(settings) in ("", line["method"])
        }
        published = [model for model in models if checkpoint_of(config.models[model])]
        of_others = line["method"] in {each.method for each in CHECKPOINTS.values()}
        if of_others and not published:
            missing.add((line["method"], table))
        for model in published if of_others else models:
            lengths = [
                length
                for name, _, asked in evaluations(config, shown_in=table)
                if name == model
                for length in asked.amounts
            ]
            assert int(line["length"]) in lengths, (table, model, line)
    # without its rope_scaling on the hub: docs/architectures.md
    assert missing == {("longlora-100k", f"table0{each}") for each in (5, 6, 7)}


def test_a_checkpoint_that_the_paper_has_not_is_as_published():
    raw = yaml.safe_load(STUDY)
    raw["models"]["yarn"]["source"]["name"] = "somebody/else"
    settings = load_config(raw).models["yarn"]
    assert row_label(settings, "base", "none") == "as published, own RoPE"
