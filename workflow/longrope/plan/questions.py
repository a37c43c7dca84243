"""
About how long the questions of the benchmarks are: a plan is made before any is read.

Means over the questions in resources/benchmarks, in characters; how many are asked is exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longrope.config.evaluation import BenchmarksSettings
from longrope.files import read_json

FRAME = 20  # characters around a question and its answer, such as "Question: "


@dataclass(frozen=True, slots=True)
class Asked:
    """One benchmark's questions, in characters."""

    whole: int  # questions where it is published
    sequences: int  # that a question makes: one an answer; where answers are one token, one in all
    question: int  # what stands before an answer, instructions included
    answer: int


ASKED = {
    "arc_challenge": Asked(1172, 4, 140, 30),
    "hellaswag": Asked(10042, 4, 250, 160),
    "mmlu": Asked(14042, 1, 480, 1),
    "truthfulqa_mc2": Asked(817, 7, 720, 54),
}


def sequences(settings: BenchmarksSettings) -> Iterator[tuple[int, int]]:
    """For each benchmark how many sequences run, and about how many characters each has."""
    manifest = Path(settings.files or "") / "manifest.json"
    local = read_json(manifest)["benchmarks"] if settings.files and manifest.exists() else {}
    for name in settings.benchmarks:
        each = ASKED[name]
        count = min(settings.questions or each.whole, each.whole)
        if name in local:
            count = min(count, local[name]["questions"])
        one = each.question + each.answer + FRAME
        yield count * each.sequences, one * (1 + settings.shots_of(name))
