"""
Where the rest of the project is: the Snakefile and its rules, the profile, the carried books, the
tables that a plan reads.

In a checkout that is the folder above `workflow/`. A wheel puts what `longrope extend` needs of it
into `share/longrope` of the environment (`pyproject.toml`, data-files).
"""

import importlib.metadata
import subprocess
from pathlib import Path

MARKS = ("Snakefile", "workflow/rules/common.smk")


def is_project(folder: Path) -> bool:
    """Whether a folder holds the workflow."""
    return all((folder / mark).is_file() for mark in MARKS)


def home() -> Path:
    """The project that this package belongs to: the checkout, else what its wheel has put down."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if is_project(checkout) else _of_wheel() or checkout


def commit() -> str:
    """The commit of this package, `+` if it has changes; empty outside a checkout."""
    try:
        answer = subprocess.run(
            [
                "git",
                "-C",
                Path(__file__).parent,
                "describe",
                "--always",
                "--dirty=+",
                "--abbrev=12",
            ],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()


def _of_wheel() -> Path | None:
    try:
        files = importlib.metadata.files("longrope") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    ending = ("share", "longrope", MARKS[0])
    found = [Path(file.locate()).resolve().parent for file in files if file.parts[-3:] == ending]
    return next(filter(is_project, found), None)
