"""
Every stage of a lean study killed (`kill -9`) again and again: before a change that it makes to the
disk, drawn from all that it makes, or at a time, drawn from all that it takes. Does the study come
to the same as one that nobody disturbs? Each start costs no seconds, as commands are forked.

    python tests/crashes/trial_writes.py --kills 8 --out docs/results/kills-in-writes.md

`--kills` is of each job. Without Snakemake, which would also remove the outputs of a failed job:
here the next start meets all that the killed one has left. trial_kills.py has it around them.
"""

import argparse
import contextlib
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from forks import Forks
from micro import commands, make_place, stage_of
from same import everything

ABOUT = """\
Written by `tests/crashes/trial_writes.py`: every stage of a lean study, and commands that it has
not, are killed (`kill -9`) and started again, on what the killed one has left; then every file of
the results is compared with that of a study that nobody disturbed, but for what says how and how
fast (versions, seconds, memory). *Before a change*: just before it creates, opens for writing,
renames or removes a file or folder, drawn from all that it does of that. *At a time*: drawn from
all that it takes. A process that had ended by then counts as no kill.
"""


BASE, OWN = "results/micro/base", "results/alone"
TINY = {"original_window": "256", "source": {"kind": "folder", "path": "resources/models/tiny"}}
ALONE = (  # what the workflow of the lean study does not run
    f"import-model --name tiny --out {OWN}/model --settings '{json.dumps(TINY)}'",
    f"evaluate-instructions --model {BASE}/model --out {OWN}/instructions.json",
    f"publish --name mine --about trial --command none --model {BASE}/model --out {OWN}/mine.json"
    f" --factors {BASE}/factors/search/256/factors.json"
    f" --records {BASE}/evaluation/tales/search.json",
    f"export --model {BASE}/model --factors {OWN}/mine.json --out {OWN}/export",
    f"import-factors --checkpoint {OWN}/export --out {OWN}/factors.json",
)


@dataclass(slots=True)
class Hit:
    """What was done to the jobs of a stage."""

    jobs: int = 0
    before_a_change: list[str] = field(default_factory=list)  # which of how many
    at_a_time: list[str] = field(default_factory=list)  # seconds


def kill_in_time(forks: Forks, place: Path, words: list[str], after: float) -> bool:
    """Kill a command after so many seconds; whether it still ran."""
    pid = forks.start(place, words)
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return forks.wait()[0] == -signal.SIGKILL


def run(folder: Path, kills: int, seed: int) -> tuple[dict[str, Hit], list[str], int, int]:
    """Per stage what was hit; the files that differ, how many were compared, the drafts left."""
    quiet, killed = folder / "quiet", folder / "killed"
    rng, hits = random.Random(seed), defaultdict(Hit)
    todo = [*commands(quiet), *(shlex.split(f"--log logs/alone.log {each}") for each in ALONE)]
    make_place(killed)
    with Forks() as forks:
        for words in todo:
            began = time.monotonic()
            code, changes = forks.run(quiet, words)
            took, hit = time.monotonic() - began, hits[stage_of(words)]
            if code:
                raise SystemExit(f"undisturbed, it failed: {words}: {quiet}/said.txt")
            hit.jobs += 1
            for number in range(kills):
                at = rng.randint(1, changes)
                if number % 2 == 0:
                    if forks.run(killed, words, dies_at=at)[0] == -signal.SIGKILL:
                        hit.before_a_change.append(f"{at}/{changes}")
                else:
                    after = rng.uniform(0, took)
                    if kill_in_time(forks, killed, words, after):
                        hit.at_a_time.append(f"{after:.2f}")
            if forks.run(killed, words)[0]:
                raise SystemExit(f"started again, it failed: {words}: {killed}/said.txt")
            print(words[words.index("--log") + 1], hit, flush=True)
    one, other = everything(quiet / "results"), everything(killed / "results")
    wrong = sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
    return hits, wrong, len(one), len(list(killed.rglob("*.part")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--kills", type=int, default=8, help="of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table here, too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="longrope-writes-"))
    hits, wrong, files, left = run(folder, options.kills, options.seed)
    lines = [
        "| stage | jobs | before a change | at a time | changes, of all | seconds |",
        "|:--|--:|--:|--:|:--|:--|",
    ]
    for stage, hit in hits.items():
        numbers = f"{hit.jobs} | {len(hit.before_a_change)} | {len(hit.at_a_time)}"
        where = f"{', '.join(hit.before_a_change)} | {', '.join(hit.at_a_time)}"
        lines.append(f"| {stage} | {numbers} | {where} |")
    sums = [sum(len(getattr(each, name)) for each in hits.values()) for name in Hit.__slots__[1:]]
    jobs = sum(each.jobs for each in hits.values())
    lines += [
        f"| **all** | {jobs} | {sums[0]} | {sums[1]} | | |",
        "",
        f"{sum(sums)} kills; of {files} files compared, {len(wrong)} differ; {left} drafts left.",
    ]
    said = "\n".join(lines)
    print(said, wrong)
    if options.out:
        options.out.write_text(f"# Stages killed while they write\n\n{ABOUT}\n{said}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
