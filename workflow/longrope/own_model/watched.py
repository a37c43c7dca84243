"""
A workflow as its user follows it: what is made, what came out, how far it is; the rest in a file.

Snakemake writes to the file by itself, so that a workflow outlives the process that follows it.
What is left out is a list of what Snakemake is known to say: a line that nobody foresaw is shown.
"""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

EVERY = 0.3  # seconds between two looks at the file
NOISE = re.compile(
    r"\s*$"
    r"|\[\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\]$"
    r"|SNAKEMAKE$|=========$|  (Date|Workflow ID|Platform|Host|User|Snakemake version"
    r"|Python version|Command|Snakefile|Base directory|Run directory|Working directory"
    r"|Config file\(s\)|Config MD5): "
    r"|(Assuming unrestricted|Using shell|Using workflow specific profile|Provided cores|host: "
    r"|Rules claiming more threads|Conda environments|Building DAG|Select jobs|Execute \d+ jobs"
    r"|Reason: |Finished jobid|Complete log|Elapsed time|Job stats|job +count$|-+  -+$"
    r"|\w+ {2,}\d+$)"
)
STAGE = re.compile(r"Job \d+: (.*)")
TARGET = re.compile(r"localrule \w+:$")  # a rule that has no message, as it makes nothing


class Told:
    """What of each line of Snakemake's the user is shown."""

    def __init__(self) -> None:
        self._of_target = False  # whether lines are what a target consists of

    def of(self, line: str) -> str | None:
        """The line, or what is worth telling of it; None if nothing is."""
        inside = self._of_target and line.startswith("    ")
        self._of_target = inside or bool(TARGET.match(line))
        if self._of_target or NOISE.match(line):
            return None
        stage = STAGE.match(line)
        return stage[1] if stage else line


def run_watched(
    command: list[str], log: Path, say: Callable[[str], None] = print, **options
) -> int:
    """Run a workflow, its output added to `log`; its exit code. An interrupt, which it gets as
    well, lets it end; a second one leaves it alone."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)
        began = file.tell()
    try:
        _follow(process, log, began, say)
    except KeyboardInterrupt:
        say("Stopping: what runs saves how far it is, and what is done is recorded in MLflow ...")
        process.wait()
        say("Stopped, as you asked: the same command goes on from there")
        raise
    return process.returncode


def _follow(process: subprocess.Popen, log: Path, began: int, say: Callable[[str], None]) -> None:
    """Show what a process adds to a file until it has ended."""
    with log.open("rb") as file:
        file.seek(began)
        kept, told = b"", Told()
        while True:
            ended = process.poll() is not None  # before the last look, so that nothing is missed
            *lines, kept = (kept + file.read()).split(b"\n")
            for line in lines + [kept] * ended:
                if (shown := told.of(line.decode("utf-8", "replace"))) is not None:
                    say(shown)
            if ended:
                return
            time.sleep(EVERY)
