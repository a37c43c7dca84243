"""What a wheel of the project is worth where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers import ROOT, save_llama, write_excerpts

SOURCES = ("LICENSE", "README.md", "Snakefile", "pyproject.toml")
FOLDERS = ("config", "profiles", "resources", "workflow")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, so that nothing of an older build gets into it."""
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "project"
    for name in FOLDERS:
        left = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, ignore=left)
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*build, "--wheel-dir", place], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder that it is installed in; what it needs is that of this Python."""
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--prefix", folder]
    subprocess.run([*install, "--ignore-installed", wheel], check=True)
    return folder


def longrope(installed: Path, place: Path, *arguments) -> str:
    """What a command prints, run in a folder that is no checkout."""
    (packages,) = installed.glob("lib/python*/site-packages")
    environment = os.environ | {"PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{installed / 'bin'}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "longrope.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_it_holds_every_module_and_all_that_the_workflow_includes(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    modules = {path.relative_to(ROOT / "workflow") for path in ROOT.glob("workflow/longrope/**/*")}
    modules = {str(each) for each in modules if each.suffix in (".py", ".json", ".md")}
    assert modules <= names
    (data,) = {name.split("/")[0] for name in names if ".data/" in name}
    rules = ROOT.glob("workflow/rules/*.smk")
    shared = {"Snakefile", *(f"workflow/rules/{path.name}" for path in rules)}
    assert {f"{data}/data/share/longrope/{name}" for name in shared} <= names
    assert wheel.stat().st_size < 8 << 20


def test_factors_plans_and_audits_work_without_a_checkout(installed, tmp_path):
    folder = save_llama(tmp_path / "checkpoint")
    assert "smollm2" in longrope(installed, tmp_path, "factors")
    assert "window" in longrope(installed, tmp_path, "check", folder)
    costs = ["plan", "--gpu", "a100-80gb", "--config", ROOT / "config/paper.yaml"]
    assert "GPU-hours" in longrope(installed, tmp_path, *costs)


def test_extend_finds_the_workflow_that_the_wheel_carries(installed, tmp_path):
    folder = save_llama(tmp_path / "checkpoint")
    asked = [folder, "--to", "256", "--trial", "--dry-run", "--out", tmp_path / "out"]
    said = longrope(installed, tmp_path, "extend", *asked, "--text", write_excerpts(tmp_path / "t"))
    assert "search_factors" in said and str(ROOT / "Snakefile") not in said
    said = longrope(installed, tmp_path, "init", folder, "--to", "256")  # with the carried books
    assert "carried books" in said
