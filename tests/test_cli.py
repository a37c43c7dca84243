"""The command line: what it imports, how it ends, what it logs, and every stage by its command."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from helpers import PAIRS, SPLIT, WINDOW, make_checkpoint, make_tokens, save_llama, write_excerpts
from longrope.cli import build_parser, main
from longrope.commands import factors
from longrope.config.search import SearchSettings
from longrope.errors import UserError
from longrope.reading import read_settings
from longrope.tracking.run import Outcome

HEAVY = ("torch", "transformers", "datasets", "mlflow", "pandas", "matplotlib", "snakemake")


def python(code: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def record_of(log) -> dict:
    return json.loads(log.with_suffix(".run.json").read_text())


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", [["factors"], ["schema"]])
def test_a_reader_that_goes_away_is_no_error(command, buffered):
    words = [sys.executable, *([] if buffered else ["-u"]), "-m", "longrope.cli", *command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(), said) == (141, b"")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("cli") / "data")


def derive(model, out, *before, method="pi", window="128") -> list[str]:
    """The arguments that derive factors, a stage that takes no time."""
    stage = ["derive", method, "--window", window, "--model", model, "--out", out]
    return [*map(str, before), *map(str, stage)]


# --- imports --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["--version"], ["schema"]])
def test_a_question_is_answered_without_heavy_imports(arguments):
    code = f"""
import sys
from longrope.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
loaded = [name for name in {HEAVY} if name in sys.modules]
sys.exit(f"imports {{loaded}}" if loaded else status)
"""
    result = python(code, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert "longrope" in result.stdout


def test_what_the_workflow_imports_to_plan_is_light():
    modules = "baselines, config, errors, factors, study, versions, windows"
    more = "from longrope import needs; from longrope.models import window"
    code = f"import sys; from longrope import {modules}; {more}; print(*sys.modules)"
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert not set(HEAVY[:-1]) & set(result.stdout.split())


def test_a_search_needs_no_package_of_the_workflow(base, tokens, tmp_path):
    code = """
import sys
from importlib.machinery import PathFinder

blocked = {"snakemake", "mlflow", "datasets", "pandas", "matplotlib", "gguf"}
find = PathFinder.find_spec

def find_spec(cls, name, path=None, target=None):
    return None if name.split(".")[0] in blocked else find(name, path, target)

PathFinder.find_spec = classmethod(find_spec)
import longrope.evaluate.passkey, longrope.evaluate.perplexity, longrope.training.finetune
from longrope.cli import main
assert main(sys.argv[1:]) == 0
assert not blocked & set(sys.modules)
"""
    result = python(code, "--log", tmp_path / "log", *search(base, tokens, tmp_path))
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "factors.json").read_text())["method"] == "search"


# --- how it ends ----------------------------------------------------------------------------


def test_a_stage_that_is_done_returns_0(base, tmp_path, capsys):
    assert main(derive(base, tmp_path / "factors.json")) == 0
    assert capsys.readouterr().out.startswith("pi for 128 (2x): lambda 2 to 2")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "pii"}, "unknown method 'pii': known are cope, "),
        ({"model": "nowhere"}, "nowhere: no such folder"),
        ({"window": "32"}, "32"),
    ],
    ids=["method", "model", "window"],
)
def test_what_the_user_can_mend_returns_1_and_one_line(changes, says, base, tmp_path, capsys):
    options = {"model": base, "out": tmp_path / "factors.json"} | changes
    assert main(derive(**options)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("longrope derive: ") and says in err and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-stage"],
        ["derive", "pi"],
        ["derive", "pi", "--window", "1m", "--model", "a", "--out", "b"],
        ["--no-such-option"],
        ["import-factors", "--csv", "a", "--checkpoint", "b", "--out", "c"],
    ],
)
def test_wrong_usage_returns_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: longrope" in capsys.readouterr().err


def test_a_misspelt_option_is_named_before_what_is_then_missing(capsys):
    for words in (["extend", "mine", "--too", "1k"], ["export", "--fom=full"]):
        with pytest.raises(SystemExit):
            main(words)
    said = capsys.readouterr().err
    assert "unknown --too; did you mean '--to'?" in said
    assert "unknown --fom; did you mean '--form'?" in said


def test_no_stage_at_all_shows_the_help_and_returns_2(capsys):
    assert main([]) == 2
    assert "evaluate-perplexity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (RuntimeError("a bug"), 70, "RuntimeError: a bug"),
        (ValueError("a bug"), 70, "ValueError: a bug"),
        (KeyboardInterrupt(), 130, "longrope derive: interrupted"),
    ],
    ids=["bug", "another bug", "interrupted"],
)
def test_a_bug_shows_its_traceback(error, status, says, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(factors, "derive", raising(error))
    assert main(derive(base, tmp_path / "factors.json")) == status
    err = capsys.readouterr().err
    assert says in err and ("Traceback" in err) == (status == 70)


def raising(error: BaseException):
    def stage(options):
        print("at work")
        raise error

    return stage


# --- logs and records -----------------------------------------------------------------------


def test_a_log_gets_the_very_text_of_the_terminal(base, tmp_path, capsys, monkeypatch):
    log = tmp_path / "deep/below/derive.log"
    runs = [factors.derive, raising(RuntimeError("a bug"))]
    shown = ""
    for stage in runs:
        monkeypatch.setattr(factors, "derive", stage)
        main(derive(base, tmp_path / "factors.json", "--log", log))
        shown += "".join(capsys.readouterr())
    assert log.read_text() == shown
    assert "pi for 128" in shown and "Traceback" in shown


def test_a_record_tells_what_was_run_and_how_it_went(base, tmp_path):
    log, out = tmp_path / "derive.log", tmp_path / "factors.json"
    assert main(derive(base, out, "--log", log)) == 0
    record = record_of(log)
    assert (record["stage"], record["status"]) == ("derive", "finished")
    assert record["params"]["method"] == "pi" and record["params"]["window"] == "128"
    assert record["artifacts"] == [str(out)] and record["seconds"] >= 0
    assert record["name"] == str(tmp_path / "derive") and record["tags"]["log"] == str(log)


@pytest.mark.parametrize("error", ["UserError", "RuntimeError", "KeyboardInterrupt"])
def test_a_record_is_left_by_failures_too(error, base, tmp_path, monkeypatch):
    from longrope.errors import UserError

    kinds = {each.__name__: each for each in (UserError, RuntimeError, KeyboardInterrupt)}
    monkeypatch.setattr(factors, "derive", raising(kinds[error]("too bad")))
    log = tmp_path / "derive.log"
    assert main(derive(base, tmp_path / "factors.json", "--log", log)) in (1, 70, 130)
    record = record_of(log)
    assert record["status"] == "failed" and record["tags"]["error"] == f"{error}: too bad"


def test_every_run_has_an_id_of_its_own(base, tmp_path):
    ids = set()
    for name in ("a", "b"):
        main(derive(base, tmp_path / "factors.json", "--log", tmp_path / f"{name}.log"))
        ids.add(record_of(tmp_path / f"{name}.log")["run_id"])
    assert len(ids) == 2


def test_settings_that_are_no_json_are_an_error_like_any_other(base, tokens, tmp_path, capsys):
    arguments = search(base, tokens, tmp_path)[:-1]
    assert main(["--log", str(tmp_path / "search.log"), *arguments, "{no json"]) == 1
    err = capsys.readouterr().err
    assert "--settings: not JSON" in err and "Traceback" not in err
    assert record_of(tmp_path / "search.log")["status"] == "failed"


def test_a_log_that_cannot_be_written_is_an_error_of_one_line(base, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    log = tmp_path / "file/derive.log"
    assert main(derive(base, tmp_path / "factors.json", "--log", log)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_number_that_a_record_cannot_hold_fails_no_stage(base, tmp_path, monkeypatch):
    monkeypatch.setattr(factors, "derive", lambda options: Outcome({"perplexity": float("inf")}))
    assert main(derive(base, tmp_path / "factors.json", "--log", tmp_path / "derive.log")) == 0
    assert record_of(tmp_path / "derive.log")["status"] == "finished"


# --- the stages -----------------------------------------------------------------------------


def search(model, tokens, folder) -> list[str]:
    """The arguments of a small search; the last is its settings."""
    settings = {
        "window": "128",
        "budget": {"evaluations": 6, "documents": 1},
        "optimiser": {"name": "cma"},
        "attention_factor": "none",
        "seed": 1,
    }
    files = {
        "--model": model,
        "--tokens": tokens / "validation",
        "--out": folder / "factors.json",
        "--trace": folder / "trace.jsonl",
        "--state": folder / "state",
    }
    options = [str(each) for option in files.items() for each in option]
    return ["search", *options, "--settings", json.dumps(settings)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder in which every stage from a checkpoint to the extended model has run."""
    place = tmp_path_factory.mktemp("study")

    def run(stage: str, settings: dict | None = None, **options) -> None:
        arguments = ["--log", str(place / f"logs/{stage}.log"), *stage.split()]
        for name, value in options.items():
            values = value if isinstance(value, list) else [value]
            arguments += [f"--{name}", *[str(each) for each in values]]
        if settings is not None:
            arguments += ["--settings", json.dumps(settings)]
        assert main(arguments) == 0, arguments

    source = {"kind": "folder", "path": str(save_llama(place / "source"))}
    model, tuned, data = place / "base", place / "tuned", place / "data"
    run("import-model", {"source": source, "original_window": "64"}, name="tiny", out=model)
    corpus = {"source": {"kind": "text", "files": [write_excerpts(place / "texts")]}}
    corpus |= {"splits": SPLIT}
    run("tokenize", {"corpus": corpus}, model=model, out=data)
    small = {"budget": {"evaluations": 5, "documents": 1}, "optimiser": {"name": "cma"}}
    small |= {"attention_factor": "su", "seed": 1, "window": "128"}

    def files(name: str) -> dict:
        kept = {"out": place / f"{name}.json", "trace": place / f"{name}.jsonl"}
        return kept | {"state": place / f"state/{name}", "tokens": data / "validation"}

    run("search", small, model=model, **files("first"))
    tuning = {"method": "search", "window": "128", "steps": 2, "batch": 1, "learning_rate": 0.01}
    run(
        "finetune",
        {"name": "tuned", "tuning": tuning, "seed": 1},
        model=model,
        factors=place / "first.json",
        tokens=data / "train",
        out=tuned,
        metrics=place / "metrics.jsonl",
        state=place / "state/tuned",
    )
    run("search", small | {"window": "256"}, model=tuned, **files("second"))
    run("search --recovery", small | {"window": "64"}, model=tuned, **files("recovery"))
    run("derive yarn-on-tuned", model=tuned, window="256", out=place / "yarn.json")
    factors = [place / f"{name}.json" for name in ("recovery", "first", "second")]
    run("assemble", model=tuned, factors=factors, out=place / "extended")
    return place


def test_the_stages_lead_from_a_checkpoint_to_an_extended_model(study):
    extended = json.loads((study / "extended/extended.json").read_text())
    assert [tier["max_length"] for tier in extended["tiers"]] == [WINDOW, 128, 256]
    assert [tier["method"] for tier in extended["tiers"]] == ["recovery", "search", "search"]
    for name in ("recovery", "first", "second", "yarn"):
        record = json.loads((study / f"{name}.json").read_text())
        assert record["model"] == "tiny" and len(record["lambda"]) == PAIRS


def test_every_stage_leaves_its_log_and_a_finished_record(study):
    records = {path.name: json.loads(path.read_text()) for path in study.glob("logs/*.run.json")}
    stages = {"import-model", "tokenize", "search", "finetune", "derive", "assemble"}
    assert {record["stage"] for record in records.values()} == stages
    for record in records.values():
        assert record["status"] == "finished"
        for path in record["artifacts"] + record["curves"]:
            assert (study / path).exists()
    tuning = records["finetune.run.json"]
    assert tuning["params"]["settings"]["tuning"]["window"] == "128"
    assert tuning["metrics"]["tokens"] == 2 * 128
    assert records["search.run.json"]["metrics"]["candidates"] == 5


def test_a_question_leaves_no_record(tmp_path, capsys):
    assert main(["--log", str(tmp_path / "schema.log"), "schema"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown)["title"] == "Config"
    assert (tmp_path / "schema.log").read_text() == shown
    assert not (tmp_path / "schema.run.json").exists()


def test_settings_may_stand_in_a_file(tmp_path):
    (tmp_path / "slice.json").write_text('{"optimiser": 3}')
    for text, said in (
        (f"@{tmp_path}/slice.json", "--settings.*"),
        (f"@{tmp_path}/none.json", "--settings: .*no such file"),
    ):
        with pytest.raises(UserError, match=said):
            read_settings(SearchSettings, text)


def test_the_record_of_a_run_holds_the_settings_that_stood_in_a_file(
    base, tokens, tmp_path, monkeypatch
):
    *arguments, settings = search(base, tokens, tmp_path)
    place, log, used = tmp_path / "slice.json", tmp_path / "search.log", []
    place.write_text(settings)

    def run(options):
        place.write_text("{}")  # by somebody, while it runs
        used.append(read_settings(SearchSettings, options.settings))

    monkeypatch.setattr(factors, "search", run)
    assert main(["--log", str(log), *arguments, f"@{place}"]) == 0
    assert record_of(log)["params"]["settings"] == json.loads(settings)
    assert used == [read_settings(SearchSettings, settings)]


# --- the help -------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every sub-command by its name."""
    (found,) = (each.choices for each in build_parser()._actions if each.dest == "==SUPPRESS==")
    return found


COMMANDS = commands()
EVERY_COMMAND = pytest.mark.parametrize("name", COMMANDS)


@EVERY_COMMAND
def test_every_option_says_what_it_is_and_what_it_is_by_default(name):
    for action in COMMANDS[name]._actions:
        assert action.help, action.dest
        if action.default not in (None, False, [], argparse.SUPPRESS):
            values = action.default if isinstance(action.default, list) else [action.default]
            form = "{:g}" if action.type is float else "{}"
            default = " ".join(map(form.format, values))
            assert f"default {default}" in action.help, action.dest


@EVERY_COMMAND
def test_every_command_has_examples_and_takes_them(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    _, examples = capsys.readouterr().out.split("examples:\n")
    for line in examples.splitlines():
        program, *words = shlex.split(line.split(" > ")[0].split(" < ")[0])
        options = build_parser().parse_args(words)
        assert (program, options.stage) == ("longrope", name)


@cache
def layout() -> tuple[str, ...]:
    """What the rules of the workflow write, by path, with a wildcard for each name."""
    rules = Path(__file__).parents[1].glob("workflow/rules/*.smk")
    found = {each for path in rules for each in re.findall(r'"(results/[^"]*)"', path.read_text())}
    return tuple(re.sub(r"\{[^}]*\}", "*", each) for each in found)


def is_in_layout(path: str) -> bool:
    """Whether a path, or a pattern, of an example is one of a study: a file, or a folder above."""
    parts = path.split("/")
    return any(
        (len(parts) == len(other) or ("*" not in path and len(parts) < len(other)))
        and all(fnmatchcase(mine, theirs) for mine, theirs in zip(parts, other, strict=False))
        for other in (each.split("/") for each in layout())
    )


@EVERY_COMMAND
def test_paths_of_results_in_examples_are_those_that_a_study_has(name):
    paths = re.findall(r"(?<!\S)results/\S+", COMMANDS[name].epilog)
    assert not [each for each in paths if not is_in_layout(each)]


def test_a_path_that_is_a_level_too_deep_is_in_no_study():
    assert is_in_layout("results/*/*/evaluation/*/*.json")
    assert is_in_layout("results/mine/longrope-16k")
    assert not is_in_layout("results/*/*/evaluation/*/*/*.json")
    assert not is_in_layout("results/*/*/evaluation/*")


def test_the_help_names_every_command(capsys):
    main([])
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["PLACE", "a prompt", "--factors", "X", "--seed", "3"],
        ["PLACE", "--factors", "X", "a prompt", "--seed", "3"],
        ["PLACE", "--factors", "X", "--seed", "3", "a prompt"],
        ["--factors", "X", "PLACE", "--seed", "3", "a prompt"],
        ["--factors", "X", "--seed", "3", "PLACE", "a prompt"],
    ],
    ids=" ".join,
)
def test_a_prompt_may_stand_before_behind_and_between_the_options(words):
    options = build_parser().parse_args(["generate", *words])
    assert (str(options.path), options.prompt) == ("PLACE", "a prompt")
    assert (options.factors, options.seed) == ("X", 3)


def test_a_prompt_from_standard_input_and_an_entry_may_stand_behind_options():
    options = build_parser().parse_args(["generate", "PLACE", "--raw", "-"])
    assert options.prompt == "-" and options.raw
    options = build_parser().parse_args(["factors", "--json", "tiny"])
    assert options.name == "tiny" and options.json


@pytest.mark.parametrize("more", [["two", "words"], ["--no-such"], ["a prompt", "--raw", "more"]])
def test_what_is_too_much_for_a_prompt_is_refused(more, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["generate", "PLACE", "--seed", "3", *more])
    assert re.search("unrecognized arguments|unknown --no-such", capsys.readouterr().err)
