"""profiles/generic: through its own commands, with processes in the background as the cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "profiles/generic"
RULES = """
rule first:
    output: "first.txt"
    resources: mem_mb=16000, runtime=720, gpus=1
    threads: 4
    shell: "echo $$ > pid; sleep {seconds}; echo done > {{output}}"
"""


def ask(command: str, *arguments: str, place: Path, **environment: str):
    return subprocess.run(
        [str(PROFILE / command), *arguments],
        capture_output=True,
        text=True,
        cwd=place,
        env=os.environ | environment,
    )


def snakemake(place: Path, seconds: float) -> subprocess.Popen:
    (place / "Snakefile").write_text(RULES.format(seconds=seconds))
    command = [sys.executable, "-m", "snakemake", "--profile", str(PROFILE), "--latency-wait", "5"]
    return subprocess.Popen(
        [*command, "--retries", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=place,
        env=os.environ | {"LONGROPE_CLUSTER": "local"},
    )


def test_a_job_that_ends_well_is_done(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_cluster_generic")
    run = snakemake(tmp_path, seconds=0.1)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert (tmp_path / "first.txt").read_text() == "done\n"


def test_a_job_that_vanishes_is_an_error(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_cluster_generic")
    run = snakemake(tmp_path, seconds=300)
    for _ in range(300):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            break
        time.sleep(0.2)
    pid = int((tmp_path / "pid").read_text())
    os.killpg(os.getpgid(pid), signal.SIGKILL)  # the whole job, so that nobody tells of its end
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 1 and "Error in rule first" in said


def test_a_system_that_nobody_knows_is_refused_with_the_known_ones(tmp_path):
    result = ask("status.py", "1", place=tmp_path, LONGROPE_CLUSTER="condor")
    assert result.returncode == 1
    assert "condor" in result.stderr and "local, pbs, sge, lsf" in result.stderr


@pytest.mark.parametrize(
    ("name", "program", "answer", "asked"),
    [
        ("pbs", "qsub", "17.head", ["select=1:ncpus=4:mem=16000mb:ngpus=1", "walltime=43200"]),
        ("sge", "qsub", "17", ["-pe smp 4", "h_rt=43200,h_vmem=4000M,gpu=1"]),
        ("lsf", "bsub", "Job <17> is submitted", ["-n 4", "mem=16000", "-W 720", "num=1"]),
    ],
)
def test_what_a_job_needs_is_asked_of_the_batch_system(tmp_path, name, program, answer, asked):
    fake = tmp_path / program
    fake.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\necho "{answer}"\n')
    fake.chmod(0o755)
    resources = {"mem_mb": 16000, "runtime": 720, "gpus": 1}
    properties = {"rule": "search_factors", "threads": 4, "resources": resources}
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n# properties = {json.dumps(properties)}\ntrue\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = ask("submit.py", str(script), place=tmp_path, LONGROPE_CLUSTER=name, PATH=path)
    assert re.fullmatch(r"17(\.head)?", result.stdout.strip()), result.stderr
    said = (tmp_path / "asked").read_text()
    assert all(each in said for each in asked), said
