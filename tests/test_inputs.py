"""What a configuration reads of this machine, told before a job asks for it."""

import subprocess
from pathlib import Path

import pytest

from helpers import ROOT
from longrope.checks import load_config
from longrope.inputs import absent
from micro import configuration, make_place, snakemake


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    make_place(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_checkpoint_and_text_that_is_not_there_is_told(place):
    asked = configuration()
    assert list(absent(load_config(asked))) == []
    asked["models"]["micro"]["source"] = {"kind": "folder", "path": "mine"}
    corpus = next(iter(asked["corpora"]))
    asked["corpora"][corpus]["source"] = {"kind": "text", "files": ["none/*.txt", "*.md"]}
    (place / "a.md").write_text("text")
    said = list(absent(load_config(asked)))
    assert said == [
        f"model 'micro': mine/config.json is not there (from {place})",
        f"corpus {corpus!r}: no file matches 'none/*.txt' (from {place})",
    ]
    (place / "mine").mkdir()
    (place / "mine/config.json").write_text("{}")
    assert len(list(absent(load_config(asked)))) == 1


def test_a_dry_run_tells_it(tmp_path):
    command = snakemake(tmp_path, ROOT / "config/own-model.yaml", "--cores", "1", "--dry-run")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning: model 'my-model': path/to/checkpoint/config.json" in done.stderr
    assert "no file matches 'my_texts/*.txt'" in done.stderr
