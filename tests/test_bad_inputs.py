"""
Bad inputs: one clear message each, the right exit code, no traceback, nothing half-written; and
the page that shows them has the messages as they are.
"""

import re
import sys
from functools import cache
from importlib.metadata import version

import pytest

from bad_cases.kit import make_sound
from bad_inputs import CASES, COMMAND, ROOT, Answer, Case, captured, row, run, table
from longrope.cli import build_parser

PAGE = ROOT / "docs/results/bad-inputs.md"
QUOTED = ("pydantic", "safetensors", "snakemake", "tokenizers", "transformers")  # by messages


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small study with every stage done."""
    with captured():
        return make_sound(tmp_path_factory.mktemp("bad").resolve() / "sound")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_input_gives_one_message_and_its_exit_code(case, sound, tmp_path):
    answer = run(case, sound, tmp_path)
    assert answer.tracebacks == 0, answer.errors
    assert answer.code == case.code, answer.errors
    assert case.says in answer.errors
    assert len(headlines(case, answer)) == 1, answer.errors
    assert not answer.left
    if versions_of_the_page():
        assert row(case, answer) == page()[case.id], f"make the page again: {COMMAND}"


@cache
def versions_of_the_page() -> bool:
    """Whether other packages, and Python, say things as they did when the page was made."""
    pinned = (ROOT / "envs/constraints.txt").read_text().split()
    same = all(f"{name}=={version(name)}" in pinned for name in QUOTED)
    return same and sys.version_info[:2] == (3, 11)


@cache
def page() -> dict[str, str]:
    """The rows of the page by the case that they are of."""
    headings = {f"## {case.kind[0].upper()}{case.kind[1:]}": case.kind for case in CASES}
    rows, kind = {}, ""
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            kind = headings[line]
        elif line.startswith("| ") and not line.startswith(("| what is wrong", "| ---")):
            name = re.split(r"(?<!\\) \|", line)[0].removeprefix("| ")
            rows[f"{kind}: " + re.sub(r"\\(.)", r"\1", name)] = line
    return rows


def headlines(case: Case, answer: Answer) -> list[str]:
    """The lines of a message that are no part of the one before."""
    if case.apart and case.code == 1 and "WorkflowError" in answer.errors:
        return [line for line in answer.message if line.startswith("WorkflowError")]
    if case.code == 2:  # argparse shows the usage first
        return [line for line in answer.message if re.match(r"longrope.*: error: ", line)]
    return [line for line in answer.message if not line.startswith("  ")]


def test_every_sub_command_is_tried():
    parser = build_parser()
    (stages,) = (each for each in parser._actions if each.choices)
    tried = " ".join(path.read_text() for path in (ROOT / "tests/bad_cases").glob("*.py"))
    without = {"schema"}  # takes no input
    assert not [each for each in stages.choices if f'"{each}"' not in tried and each not in without]


def test_the_names_of_cases_are_unique():
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names) >= 120


def test_the_page_is_the_table_of_the_cases_that_there_are():
    unsaid = table({case: Answer(case.code, "", ()) for case in CASES})
    assert re.sub(r"( \| \d \| ).* \|$", r"\1 |", PAGE.read_text("utf-8"), flags=re.M) == unsaid
