"""A study that is cut again and again, by workflow/scripts/in_pieces.py."""

import subprocess
import sys
import time
from pathlib import Path

import yaml

from helpers import ROOT, lines_of, write_excerpts
from same import RECORDS, records

SCRIPT = ROOT / "workflow/scripts/in_pieces.py"
FACTORS = "results/micro/base/factors/search/256"
MODEL = "results/micro/base/model"
STEPS = 300  # of pre-training: most of the time


def make_place(folder: Path, checkpoint_every: int = 20) -> Path:
    """A working directory with a micro study: pre-training, tokens and one search."""
    folder.mkdir()
    config = yaml.safe_load((ROOT / "tests/data/micro.yaml").read_text())
    config["corpora"]["excerpts"]["source"]["files"] = [write_excerpts(folder / "excerpts")]
    config["corpora"] = {"excerpts": config["corpora"]["excerpts"]}
    config["corpora"]["excerpts"]["splits"] = {"validation": ["macbeth"], "test": ["hamlet"]}
    micro = config["models"]["micro"]
    micro["source"] |= {"checkpoint_every": checkpoint_every}
    micro["source"]["phases"][0]["steps"] = STEPS
    for part in ("tunings", "extension", "variants", "evaluation"):
        del micro[part]
    (folder / "micro.yaml").write_text(yaml.safe_dump(config))
    return folder


def run(place: Path, minutes: float, *options: str) -> subprocess.CompletedProcess:
    of_snakemake = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(place)]
    of_snakemake += ["--configfile", str(place / "micro.yaml"), "--cores", "1"]
    command = [sys.executable, str(SCRIPT), "--minutes", str(minutes), *options, *of_snakemake]
    return subprocess.run(
        [*command, f"{FACTORS}/factors.json"], capture_output=True, text=True, cwd=ROOT
    )


def test_a_study_in_pieces_ends_with_the_factors_and_weights_of_one_run(tmp_path):
    whole = make_place(tmp_path / "whole")
    cut = make_place(tmp_path / "cut", checkpoint_every=STEPS)  # none but at the cut
    began = time.monotonic()
    result = run(whole, 20)
    assert result.returncode == 0, result.stderr
    minutes = (time.monotonic() - began) / 60
    first = run(cut, 0.4 * minutes, "--once")
    assert first.returncode == 75, first.stderr
    assert list(cut.glob("results/state/micro/base/pretrain/step-*"))  # what it goes on from
    assert not (cut / FACTORS).exists()
    result = run(cut, minutes)
    assert result.returncode == 0, result.stderr
    weights = f"{MODEL}/model.safetensors"
    assert (cut / weights).read_bytes() == (whole / weights).read_bytes()
    assert records(cut / "results", RECORDS[0]) == records(whole / "results", RECORDS[0]) != {}
    assert lines_of(cut / f"{FACTORS}/trace.jsonl") == lines_of(whole / f"{FACTORS}/trace.jsonl")


def test_a_piece_too_short_for_anything_says_so(tmp_path):
    result = run(make_place(tmp_path / "short"), 0.5 / 60)
    assert result.returncode == 76
    assert "give a piece more --minutes" in result.stderr
