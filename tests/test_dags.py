"""
The jobs of every configuration, held in golden files: what a change of code or configuration makes
of a study shows as a difference.

Where a change is meant, write them again and read the difference before it is committed:

    WRITE_DAGS=1 pytest tests/test_dags.py
"""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from test_workflow import ROOT, snakemake

GOLDEN = Path(__file__).parent / "data" / "dags"
CONFIGS = sorted(
    path.stem for path in (ROOT / "config").glob("*.yaml") if path.stem not in ("own-model",)
)


@pytest.fixture
def place(tmp_path):
    """A working directory with the project's resources, and files that stand for fetched ones."""
    for name in ("resources", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_asks_for_the_jobs_of_its_golden_file(place, config):
    path = f"config/{config}.yaml"
    result = snakemake("--dry-run", "study", "--configfile", path, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    # A job is announced once, by a message that says what it does with what.
    messages = Counter(re.findall(r"^Job \d+: (.*)$", result.stdout, re.M))
    text = "".join(f"{line}\n" for line in sorted(messages))
    assert max(messages.values()) == 1, messages.most_common(3)
    file = GOLDEN / f"{config}.txt"
    if os.environ.get("WRITE_DAGS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
