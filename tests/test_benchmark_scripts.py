"""The scripts of tests/benchmarks: that they start, and that what they say of numbers holds."""

import math
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluations import documents
from helpers import make_checkpoint
from longrope.report.trace import Spent

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_says_how_it_is_used(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.startswith("usage:")


def test_the_rate_of_scoring_is_a_share_of_the_matrix_rate(tmp_path, monkeypatch, capsys):
    model = make_checkpoint(tmp_path)
    options = ["--model", str(model), "--lengths", "256", "1k", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", ["scoring_rate.py", *options])
    runpy.run_path(str(BENCHMARKS / "scoring_rate.py"), run_name="__main__")
    shares = re.findall(r"([\d.]+)%", capsys.readouterr().out)
    assert len(shares) == 2 and all(0 < float(each) < 100 for each in shares)


def test_the_cost_of_a_search_is_counted_to_what_the_paper_s_ends_with_seed_by_seed():
    """The paper's has its 20 after 4M tokens; one seed after 1M and 0.1 nats better, one never."""
    module = runpy.run_path(str(BENCHMARKS / "search_cost.py"))
    tokens = tuple(range(1_000_000, 6_000_000, 1_000_000))
    paper = Spent(tokens, (None, 30.0, 25.0, 20.0, 20.0))
    spent = {
        ("paper-seed1", 1024): paper,
        ("paper-seed2", 1024): paper,
        ("fast-seed1", 1024): Spent(tokens[:2], (20.0, 19.0)),
        ("fast-seed2", 1024): Spent(tokens[:2], (21.0, 20.01)),
    }
    loss = {"paper-seed1": 3.0, "paper-seed2": 3.0, "fast-seed1": 2.9, "fast-seed2": 3.1}
    measured = {
        name: SimpleNamespace(records=documents(1024, value, value + 0.5))
        for name, value in loss.items()
    }
    lines = module["comparison"](
        ["paper-seed1", "paper-seed2"], ["fast-seed1", "fast-seed2"], spent, measured
    )
    first, second, both = (line.split() for line in lines[1:])
    assert first[:6] == ["1k", "1", "5.00", "2.00", "1.000", "4"]
    assert first[6:] == ["-0.1000", "[-0.1000,", "-0.1000]", "no", "worse"]
    assert second[4:6] == ["never", "-"] and "may be worse by 0.100" in lines[2]
    assert both[:5] == ["1k", "all", "4", "(1", "of"]
    assert math.isclose(float(both[6]), 0.0, abs_tol=1e-9) and lines[3].endswith("no worse")


@pytest.fixture
def curve():
    """The functions of the script that measures memory."""
    return runpy.run_path(str(BENCHMARKS / "memory_curve.py"))


def points(growth) -> list[dict]:
    """What it might measure: 1 GB of pieces and what grows."""
    shared = {"loss": "pieces", "loaded": 600_000_000, "planned": 2_000_000_000, "seconds": 1.0}
    shared |= {"processor_seconds": 1.0, "about": "float32", "threads": 1, "torch": "2"}
    lengths = (8192, 16384, 32768, 65536)
    return [{"tokens": each, "peak": 10**9 + growth(each)} | shared for each in lengths]


def test_memory_that_grows_in_step_with_the_length_is_told_from_a_mask(curve):
    straight, bent = points(lambda tokens: 9000 * tokens), points(lambda tokens: tokens**2)
    assert curve["fit"](straight) == pytest.approx((9000, 1e9))
    assert all(0 < power < 1 for power in curve["powers"](straight))  # beside constant pieces
    for measured, verdict in ((straight, "at most linearly"), (bent, "MORE than linearly")):
        assert verdict in curve["report"](Path("results/m/base/model"), measured)[-1]


def test_points_that_were_measured_before_are_read_again(curve, tmp_path):
    measured = points(lambda tokens: tokens)
    curve["write"](tmp_path / "memory-curve.csv", measured)
    assert curve["read"](tmp_path / "memory-curve.csv") == measured


def test_a_score_is_measured_in_a_process_of_its_own(curve, model_folder):
    point = curve["in_a_process"](model_folder, 64, "pieces")
    assert 0 < point["loaded"] <= point["peak"] < 2e9
