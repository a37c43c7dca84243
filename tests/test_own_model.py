"""Own models: what init writes passes every check, and extend runs the workflow to an extension."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import longrope
from helpers import ROOT, WINDOW, excerpt, make_checkpoint, save_llama
from longrope.audit import check
from longrope.checks import load_config
from longrope.cli import main
from longrope.errors import UserError
from longrope.evaluate.instructions import evaluate_instructions, holds, questions
from longrope.factors import RescaleFactors, write_factors
from longrope.models import read_record
from longrope.own_model import extend
from longrope.own_model.checkpoint import find, name_of
from longrope.own_model.configuration import LEVELS, configure
from longrope.own_model.texts import Corpus, carried, find_texts, split_texts
from longrope.plan.machine import Machine
from longrope.study import factor_files, lengths_of
from longrope.windows import parse_window

CPU = Machine("cpu", 16 << 30, 1e11)
H100 = Machine("h100-80gb", 80 << 30, 9.9e14)
TINY = ROOT / "resources/models/tiny"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> str:
    """Six texts, long enough for a window of 256 tokens."""
    folder = tmp_path_factory.mktemp("texts")
    for book in ("emma", "hamlet", "macbeth", "persuasion", "the-tempest", "king-lear"):
        (folder / f"{book}.txt").write_text(excerpt(book, 6000))
    return f"{folder}/*.txt"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("own") / "My Model_v1")


# --- what a checkpoint is -------------------------------------------------------------------


def test_a_checkpoint_is_found_with_its_window_theta_and_pairs():
    found = find(TINY)
    assert (found.name, found.window, found.theta, found.pairs) == ("tiny", 256, 10_000.0, 16)
    assert not found.chat and found.vocabulary == 1024


def test_names_become_folders():
    assert name_of("My Model_v1") == "my-model-v1"
    assert name_of("SmolLM2-135M-Instruct.Q4_1") == "smollm2-135m-instruct.q4-1"


def rewrite(source: Path, folder: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_rescaled_model_and_a_faulty_one_are_refused_with_what_to_write(source, tmp_path):
    linear = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": None}
    with pytest.raises(UserError, match="rescaled already"):
        find(rewrite(source, tmp_path / "a", **linear))
    lost = {"max_position_embeddings": 100_000}
    with pytest.raises(UserError, match=r"without any scaling.*longrope check"):
        find(rewrite(source, tmp_path / "b", **lost))


def test_the_sliding_window_is_the_window_where_there_is_one(source, tmp_path):
    found = find(rewrite(source, tmp_path / "s", sliding_window=32))
    assert found.window == 32 and "sliding window" in found.notes[0]


# --- texts ----------------------------------------------------------------------------------


def test_no_document_is_in_two_splits_and_half_is_left_to_train_on(texts):
    corpus = find_texts([texts], 384, 256)
    test, validation = (set(corpus.splits[split]) for split in ("test", "validation"))
    assert test and validation and not test & validation
    assert len(test | validation) <= len(corpus.lengths) / 2


def test_documents_that_are_too_short_are_joined_or_refused():
    lengths = {"a": 3000, "b": 2500, "c": 2400, "d": 2000, "e": 900, "f": 800, "g": 10, "h": 10}
    assert split_texts(["*"], lengths, 1024).join_to is None
    assert split_texts(["*"], lengths, 4096).join_to == 4096
    with pytest.raises(UserError, match="fewer than 65,536 tokens in all"):
        split_texts(["*"], lengths, 65536)


@pytest.mark.parametrize("window", [2048, 32768])
def test_the_carried_books_keep_the_split_of_the_default_study(window):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert carried(ROOT, 49152, window).splits == config["corpora"]["books"]["splits"]


# --- the configuration ----------------------------------------------------------------------


def made_for(target: int, machine=CPU, hours=1000.0, corpus=None, **options):
    corpus = corpus or Corpus(["/x/*.txt"], {"test": ["a"], "validation": ["b"]},
                              {"a": 10**7, "b": 10**7, "c": 10**7}, None)  # fmt: skip
    return configure(find(TINY), target, corpus, machine, hours, **options)


@pytest.mark.parametrize("target", [512, 1024, 2048, 3000, 4096, 16384])
@pytest.mark.parametrize("machine", [CPU, H100])
@pytest.mark.parametrize("hours", [1000, 0.001])
def test_every_configuration_has_fifteen_lines_or_so_and_passes_the_checks(target, machine, hours):
    made = made_for(target, machine, hours)
    assert len(made.text.splitlines()) <= 16
    config = load_config(yaml.safe_load(made.text))
    assert config == made.config
    (model,) = config.models.values()
    windows = {*model.search, *(model.extension.search if model.extension else {})}
    assert max(windows) == target and model.original_window == 256
    tuned = [tuning.window for tuning in model.tunings.values()]
    assert all(window <= 8 * 256 for window in tuned)
    assert 256 in one_table_lengths(made, target)


def one_table_lengths(made, target: int) -> list[int]:
    """The lengths at which the exported table, that of the target, is measured."""
    (model,) = made.config.models.values()
    text = model.evaluation["text"]
    (method,) = {"longest", "tuned"} & set(text.methods[made.weights])
    lengths = list(lengths_of(model, made.weights, method, text))
    (file,) = factor_files("m", model, made.weights, method, lengths)
    assert parse_window(file.split("/")[-2]) == target
    return lengths


def test_fewer_hours_buy_less_and_the_least_is_written_with_a_warning():
    costs = [made_for(2048, hours=hours).hours for hours in (1000, 1, 0.2, 1e-9)]
    assert costs == sorted(costs, reverse=True)
    assert made_for(2048, hours=1000).level is LEVELS[0]
    least = made_for(2048, hours=1e-9)
    assert least.level is LEVELS[-1] and least.weights == "base"
    assert any("above --hours" in note for note in least.notes)


@pytest.mark.parametrize(("target", "message"), [(256, "already"), (256 * 128, "up to 64x")])
def test_a_target_that_is_no_extension_or_too_far_is_refused(target, message):
    with pytest.raises(UserError, match=message):
        made_for(target)


def test_init_writes_a_configuration_whose_jobs_snakemake_lists(source, texts, tmp_path):
    path = tmp_path / "my.yaml"
    command = ["init", str(source), "--to", "256", "--text", texts, "--trial", "--out", str(path)]
    assert main(command) == 0
    jobs = dry_run(path, tmp_path)
    assert "assemble_extended" in jobs and "search_factors" in jobs and "finetune_model" in jobs


def dry_run(config: Path, folder: Path) -> str:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"),
               "--directory", str(folder), "--configfile", str(config), "--dry-run"]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


# --- extend ---------------------------------------------------------------------------------


def test_the_checkout_is_found_by_name_or_by_where_the_package_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert extend.find_project(None) == ROOT
    with pytest.raises(UserError, match="--project FOLDER"):
        extend.find_project(tmp_path)
    monkeypatch.setattr(longrope, "__file__", str(tmp_path / "lib/longrope/__init__.py"))
    with pytest.raises(UserError, match="not part of the installed package"):
        extend.find_project(None)


def test_extend_runs_every_stage_and_hands_the_model_to_the_export(
    source, texts, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "workflow"), *sys.path[:1]]))
    handed = []
    monkeypatch.setattr(extend, "export", lambda places, out: handed.append((places, out)))
    out = tmp_path / "mine"
    command = ["extend", str(source), "--to", "256", "--text", texts, "--trial", "--out", str(out)]
    assert main([*command, "--cores", "2"]) == 0, capfd.readouterr().err
    ((places, exported),) = handed
    assert exported == out / "export" and places.factors.exists() and places.checkpoint.exists()
    model, _ = longrope.load(places.checkpoint.parent)
    assert [each.window for each in model.tiers.factors] == [WINDOW, 256]
    assert (out / "results/tables/summary.md").exists()
    shown = capfd.readouterr().out
    assert "instructions, before" in shown and "instructions, after, one table" in shown
    assert check(places.checkpoint).facts["window"] == WINDOW


# --- the instruction check ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "answer", "held"),
    [("It is Paris.", "Paris", True), ("paris", "Paris", True), ("Parisian", "Paris", False),
     ("12", "2", False), ("the answer is 2", "2", True), ("in the box!", "in the box", True)],
)  # fmt: skip
def test_an_answer_holds_the_reference_as_words_of_its_own(said, answer, held):
    assert holds(said, answer) is held


def test_untouched_factors_change_no_answer_and_wild_ones_do(tmp_path):
    folder = make_checkpoint(tmp_path)
    rope = read_record(folder).rope
    same = RescaleFactors(rope, WINDOW, "none", (1.0,) * rope.pairs)
    wild = RescaleFactors(rope, 4 * WINDOW, "pi", (4.0,) * rope.pairs)
    found = {}
    for name, factors in {"none": None, "same": same, "wild": wild}.items():
        path = None
        if factors:
            path = tmp_path / f"{name}.factors.json"
            write_factors(path, factors)
        found[name] = evaluate_instructions(folder, path, tmp_path / f"{name}.json")
    assert found["none"] == found["same"] != found["wild"]
    record = json.loads((tmp_path / "wild.json").read_text())
    assert len(record["records"]) == len(questions()) >= 20
    assert record["results"]["log_prob"] == pytest.approx(found["wild"]["log_prob"])
