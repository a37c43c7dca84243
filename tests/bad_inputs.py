"""
Every bad input that the project is tried with: what it answers, and the table of that.

    python tests/bad_inputs.py --out docs/results/bad-inputs.md

Each case (bad_cases/) damages one thing in a small sound study and runs the command that meets it.
The command must end with the code that the case names and say what is wrong in one message, with
the words that the case names; no traceback, no warning beside it, nothing half-written.
"""

import argparse
import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bad_cases import checkpoints, commands, configurations, corpora, factors, results
from bad_cases.kit import Case, Place, make_sound
from longrope.cli import main

CASES: list[Case] = [
    case
    for module in (configurations, corpora, factors, checkpoints, results, commands)
    for case in module.CASES
]
ROOT = Path(__file__).parents[1]
COMMAND = "python tests/bad_inputs.py --out docs/results/bad-inputs.md"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a case."""

    code: int
    errors: str  # what it printed on standard error
    left: tuple[str, ...]  # drafts that it did not remove

    @property
    def message(self) -> list[str]:
        """The lines of it, but for progress."""
        return [line for line in self.errors.splitlines() if line and not line.startswith("[")]

    @property
    def tracebacks(self) -> int:
        """How many there are."""
        return self.errors.count("Traceback (most recent call last)")


def run(case: Case, sound: Path, folder: Path) -> Answer:
    """Make a case in an empty folder, and run its command there."""
    arguments = [str(each) for each in case.make(Place(folder, sound))]
    if case.apart:
        command = arguments if "snakemake" in arguments else ["-m", "longrope.cli", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
        )
        # Snakemake shows its log, errors included, on either.
        code, errors = done.returncode, done.stderr + done.stdout * ("snakemake" in command)
    else:
        before = Path.cwd()
        os.chdir(folder)
        try:
            with captured() as file:
                code = run_here(arguments)
        finally:
            os.chdir(before)
        errors = file.getvalue()
    left = tuple(str(path.relative_to(folder)) for path in folder.rglob(".*.part"))
    return Answer(code, shortened(errors, {folder: "", sound: "SOUND/"}), left)


def run_here(arguments: list[str]) -> int:
    """The command in this process."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """All that goes to standard error meanwhile, that of libraries and C code too."""
    text = io.StringIO()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", buffering=1) as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        # These were made with the stream that there was when they were imported.
        known = logging.getLogger("transformers").handlers
        handlers = [each for each in known if type(each) is logging.StreamHandler]
        streams = [each.setStream(file) for each in handlers]
        try:
            with contextlib.redirect_stderr(file), contextlib.redirect_stdout(io.StringIO()):
                yield text
        finally:
            for handler, stream in zip(handlers, streams, strict=True):
                handler.setStream(stream or sys.stderr)
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text.write(file.read())


def shortened(text: str, folders: dict[Path, str]) -> str:
    """A text without the folders of this machine."""
    for folder, name in folders.items():
        text = text.replace(f"{folder}/", name).replace(str(folder), name or ".")
    return text.replace(f"{ROOT}/", "")


def table(answers: dict[Case, Answer]) -> str:
    """The page: every case, its exit code and its message."""
    kinds = dict.fromkeys(case.kind for case in answers)
    found = sum(answer.tracebacks for answer in answers.values())
    lines = [
        "# Bad inputs",
        "",
        f"Made by `{COMMAND}`; `tests/test_bad_inputs.py` tries the same on every change, and"
        " compares the messages. Where one quotes another package, it is as in the versions of"
        " [`envs/constraints.txt`](../../envs/constraints.txt).",
        "",
        f"{len(answers)} inputs with one thing wrong in each, over every sub-command, and what the"
        " command answered: exit code 1 is bad input, 2 wrong usage. Each must give one message"
        " that says what is wrong, where, and what to do.",
        "",
        f"**Tracebacks: {found}.**",
    ]
    for kind in kinds:
        lines += ["", f"## {kind[0].upper()}{kind[1:]}", ""]
        lines += ["| what is wrong | exit | message |", "| --- | --- | --- |"]
        lines += [row(case, answer) for case, answer in answers.items() if case.kind == kind]
    return "\n".join(lines) + "\n"


def row(case: Case, answer: Answer) -> str:
    """A case in the page: the same on every machine with the same versions."""
    return f"| {_cell(case.name)} | {answer.code} | {_cell(_said(case, answer))} |"


def _said(case: Case, answer: Answer) -> str:
    """The message, in one line; of the usage that argparse shows the last."""
    lines = answer.message
    if case.code == 2 and lines:
        lines = lines[-1:]
    said = " ".join(" ".join(lines).split())
    return re.sub(r"(\.smk\"), line \d+", r"\1", said)  # which moves with every edit


def _cell(text: str) -> str:
    """Text that a table shows as it is."""
    for character in "\\|<>*_[]`":
        text = text.replace(character, f"\\{character}")
    return text


def write_table(out: Path) -> int:
    """Run all cases and write the page; returns how many ended otherwise than they should."""
    answers: dict[Case, Answer] = {}
    with tempfile.TemporaryDirectory() as place:
        with captured():
            sound = make_sound(Path(place).resolve() / "sound")
        for number, case in enumerate(CASES):
            folder = sound.parent / f"case-{number}"
            folder.mkdir()
            answers[case] = run(case, sound, folder)
            print(f"{number + 1}/{len(CASES)} {case.id}: {answers[case].code}", file=sys.stderr)
    out.write_text(table(answers), encoding="utf-8")
    return sum(
        answer.code != case.code or answer.tracebacks > 0 for case, answer in answers.items()
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the page")
    sys.exit(min(1, write_table(parser.parse_args().out)))
