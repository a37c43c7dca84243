"""The workflow as Snakemake sees it: the DAG, the lint, the messages, the cluster's view."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LOCAL = (  # rules that run where snakemake runs
    *("all", "derive_factors", "assemble_extended"),
    *("make_table", "make_summary", "plot_figure"),
)


def snakemake(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    return subprocess.run(
        [*command, "--directory", str(cwd), *arguments], capture_output=True, text=True, cwd=ROOT
    )


@pytest.fixture
def place(tmp_path):
    """An empty working directory with the project's resources and default configuration."""
    for name in ("resources", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def jobs(output: str) -> dict[str, int]:
    """The table of jobs that a dry run prints."""
    lines = output.split("Job stats:")[1].splitlines()[3:]
    counts = {}
    for line in lines:
        if not line.strip():
            break
        name, count = line.split()
        counts[name] = int(count)
    return counts


def test_the_default_study_asks_for_every_stage(place):
    counts = jobs(snakemake("--dry-run", cwd=place).stdout)
    assert counts["search_factors"] == 7  # recoveries too
    assert counts["finetune_model"] == 4
    assert counts["evaluate_perplexity"] == 24
    assert counts["evaluate_passkey"] == 7
    assert (counts["make_table"], counts["plot_figure"]) == (8, 6)
    assert counts["import_model"] == counts["make_summary"] == 1


def test_the_ablations_are_asked_for_by_a_target_of_their_own(place):
    counts = jobs(snakemake("--dry-run", "study", cwd=place).stdout)
    assert counts["search_factors"] == 13
    assert counts["finetune_model"] == 9
    assert counts["evaluate_benchmarks"] == 3
    assert (counts["make_table"], counts["plot_figure"]) == (15, 8)


@pytest.mark.parametrize(
    "target", ["search", "finetune", "recovery", "evaluation", "tables", "figures", "extended"]
)
def test_each_named_target_is_a_part_of_the_study(place, target):
    result = snakemake("--dry-run", target, cwd=place)
    whole = jobs(snakemake("--dry-run", "study", cwd=place).stdout)
    part = jobs(result.stdout)
    part.pop(target)
    assert part.pop("total") <= whole["total"]
    assert all(count <= whole[rule] for rule, count in part.items())


def test_another_configuration_replaces_the_default_one(place):
    result = snakemake("--dry-run", "pretrain", "--configfile", "config/pretrain.yaml", cwd=place)
    assert "tiny-from-scratch" in result.stdout
    assert "results/tiny/" not in result.stdout


def test_a_budget_changes_the_command_of_its_own_search_only(place, tmp_path):
    text = (ROOT / "config/config.yaml").read_text()
    assert "8k: {evaluations: 16" in text
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("8k: {evaluations: 16", "8k: {evaluations: 17"))
    before = dry_parameters(place, ROOT / "config/config.yaml")
    after = dry_parameters(place, changed)
    assert {name for name in before if before[name] != after[name]} == {"search 8k"}


def dry_parameters(place: Path, config: Path) -> dict[str, str]:
    """The shell command of every search in a dry run."""
    result = snakemake("--dry-run", "--printshellcmds", "--configfile", str(config), cwd=place)
    commands = [line.strip() for line in result.stdout.splitlines() if "exec longrope" in line]
    searches = [line for line in commands if "--per-sequence 1 search " in line]
    return {
        f"search {line.split('/state/')[1].split()[0].split('/')[-1]}": line for line in searches
    }


def test_the_default_study_tests_on_no_text_that_its_model_was_trained_on():
    study, pretraining = (
        yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())["corpora"]
        for name in ("config", "pretrain")
    )
    assert study["books"] == pretraining["books"]
    for name in ("plays", "novels"):
        assert set(study[name]["splits"]["test"]) <= set(study["books"]["splits"]["test"])


def test_snakemake_finds_nothing_to_complain_about():
    result = snakemake("--lint")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda c: c["models"]["tiny"].update(sarch={}), "did you mean 'search'?"),
        (
            lambda c: c["models"]["tiny"]["search"].update({128: {"evaluations": 9}}),
            "the window must be above the original one, 256",
        ),
        (lambda c: c["models"]["tiny"].update(corpus="book"), "known are books, novels, plays"),
        (
            lambda c: c["models"]["tiny"].update(original_window=512),
            "original_window is 512 in the configuration, but its max_position_embeddings is 256",
        ),
    ],
)
def test_a_wrong_configuration_stops_a_dry_run_with_one_message(place, tmp_path, wrong, message):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    wrong(config)
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(config))
    result = snakemake("--dry-run", "--configfile", str(path), cwd=place)
    assert result.returncode == 1
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_the_cluster_profile_says_what_each_job_needs(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    for name in ("workflow", "envs", "resources", "config", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    # A dry run shows the resources of a job only if the rule has no message of its own.
    (tmp_path / "workflow").unlink()
    shutil.copytree(ROOT / "workflow/rules", tmp_path / "workflow/rules")
    for path in (tmp_path / "workflow/rules").glob("*.smk"):
        path.write_text(re.sub(r"\n    message:\n        .*", "", path.read_text()))
    shutil.copy(ROOT / "Snakefile", tmp_path)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--profile", "profiles/slurm"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    asked = dict(re.findall(r"rule (\w+):\n(?:    .*\n)*?    resources: (.*)", result.stdout))
    submitted = [rule for rule in jobs(result.stdout) if rule not in (*LOCAL, "total")]
    assert sorted(submitted) == sorted(set(asked) - set(LOCAL))
    for rule in ("search_factors", "finetune_model", "evaluate_perplexity"):
        assert "gres=gpu:1" in asked[rule] and "slurm_partition=gpu" in asked[rule]
    for rule in ("import_model", "tokenize_corpus"):
        assert "gres" not in asked[rule] and "slurm_partition=cpu" in asked[rule]
    assert "runtime=1440" in asked["search_factors"] and "mem_mb=64000" in asked["search_factors"]


STOPPABLE = """
from longrope.interrupts import Stopped
from snakemake.logging import logger
STOPPED = Stopped()
logger.addFilter(STOPPED)
rule slow:
    output: "slow.txt"
    shell: "echo begun; {command}"
onerror:
    print(STOPPED.closing())
"""


def heeding_interrupts() -> None:
    """Of a process whose parent was started in the background, which ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("job", "closing", "failures"),
    [("sleep 60", "Stopped, as you asked.", 0), ("exit 3", "Not done: the message", 1)],
    ids=["stopped", "failed"],
)
def test_what_a_user_stops_is_not_called_failed(tmp_path, job, closing, failures):
    (tmp_path / "Snakefile").write_text(STOPPABLE.replace("{command}", job))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--directory", tmp_path]
    with subprocess.Popen(
        [*command, "--snakefile", tmp_path / "Snakefile"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=heeding_interrupts,
    ) as process:  # fmt: skip
        said = "".join(iter(process.stdout.readline, "begun\n"))
        if not failures:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        said += process.stdout.read()
    assert process.returncode == 1
    assert closing in said and said.count("Error in rule slow") == failures


def test_a_dry_run_ends_with_its_warnings(place):
    result = snakemake("--dry-run", "--configfile", "config/own-model.yaml", cwd=place)
    warnings = [line for line in result.stderr.splitlines() if line.startswith("Warning:")]
    assert len(warnings) > 1 and result.stderr.splitlines()[-1] in warnings
    assert all(warnings.count(line) == 2 for line in warnings)
