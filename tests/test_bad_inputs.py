"""Bad inputs: one clear message each, the right exit code, no traceback, nothing half-written."""

import re

import pytest

from bad_cases.kit import make_sound
from bad_inputs import CASES, ROOT, Answer, Case, captured, run
from longrope.cli import build_parser


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


def test_the_page_has_exactly_the_cases_that_there_are():
    page = (ROOT / "docs/results/bad-inputs.md").read_text("utf-8")
    rows, kind = [], ""
    for line in page.splitlines():
        if line.startswith("## "):
            kind = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith(("| what is wrong", "| ---")):
            name, code = (part.strip() for part in re.split(r"(?<!\\)\|", line)[1:3])
            rows.append((kind, re.sub(r"\\(.)", r"\1", name), int(code)))
    kinds = list(dict.fromkeys(case.kind for case in CASES))
    cases = sorted(CASES, key=lambda case: kinds.index(case.kind))
    expected = [(case.kind[0].upper() + case.kind[1:], case.name, case.code) for case in cases]
    assert rows == expected
    assert "**Tracebacks: 0.**" in page
