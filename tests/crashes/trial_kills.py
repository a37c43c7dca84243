"""
A study whose stages are killed (`kill -9`) again and again, at random points: does it come to the
same text, factors, weights, evaluations and tables, to the bit, as one that nobody disturbs? (All
but seconds and memory, which are measured.)

    python tests/crashes/trial_kills.py --kills 110 --out docs/results/kills.md
    python tests/crashes/trial_kills.py --done FOLDER                   # of one that is done there
    python tests/crashes/trial_kills.py --kills 12 --default --done FOLDER     # of the default one

Every second kill is of the stage's process alone, and Snakemake clears up after it; the others are
of Snakemake and all its jobs at one moment, as when the machine loses power. After either, the
study is started again. When it is done before there were as many kills, another one is begun.
Every stage gets its share of the kills; how far into it each comes is drawn between nothing and
the time that the job took undisturbed.
"""

import argparse
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).parents[1]))
from micro import ROOT, configuration, make_place, snakemake
from same import everything

POLL = 0.01  # s
OF_ONE_JOB = 10  # kills of one job in one study: then it may end
DEFAULT = ROOT / "config/config.yaml"
ABOUT = """\
Written by `tests/crashes/trial_kills.py`: the stages of a study are killed (`kill -9`) at random
points, each second time together with Snakemake and all other jobs, and the study is started again.
Then every file of its results is compared with that of a study that nobody disturbed: *different*
counts those that say anything else, but for what says how and how fast (versions, seconds, memory).
Of {study}, by `--kills {kills} --seed {seed}`.
"""


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and what it hit."""

    stage: str
    job: str  # its log
    after: float  # seconds that it had run
    whole: bool  # Snakemake and all its jobs, too


@dataclass
class Killer:
    """Watches a run of Snakemake, and kills."""

    draw: random.Random
    wanted: int  # kills in all; 0: it looks only
    took: dict[str, float] = field(default_factory=dict)  # job: seconds, undisturbed
    stages: set[str] = field(default_factory=set)  # of a whole study
    kills: list[Kill] = field(default_factory=list)
    _began: dict[int, tuple[str, str, float]] = field(
        default_factory=dict
    )  # pid -> stage, job, when
    _due: dict[int, float] = field(default_factory=dict)  # pid -> when it dies
    _of_job: Counter = field(default_factory=Counter)  # in this study

    def next_study(self) -> None:
        self._of_job.clear()

    def watch(self, running: subprocess.Popen) -> None:
        """Until the run has ended, or everything is killed."""
        self._began.clear()
        self._due.clear()
        while running.poll() is None:
            now = time.monotonic()
            alive = stages_of(running.pid)
            for pid, (stage, job) in alive.items():
                if pid not in self._began:
                    self._began[pid] = stage, job, now
                    self._condemn(pid, stage, job, now)
            for pid in self._began.keys() - alive.keys():
                stage, job, began = self._began.pop(pid)
                self._due.pop(pid, None)
                if not self.wanted:
                    self.took[job] = now - began
                    self.stages.add(stage)
            if any(now >= due for due in self._due.values()) and self._strike(running, now):
                return
            time.sleep(POLL)

    def _condemn(self, pid: int, stage: str, job: str, now: float) -> None:
        """Give a process that began its moment to die, if it is the turn of its stage."""
        if not self.wanted or self._of_job[job] >= OF_ONE_JOB:
            return
        of_stage = sum(each.stage == stage for each in self.kills)
        of_stage += sum(self._began[other][0] == stage for other in self._due)
        if of_stage < math.ceil(self.wanted / len(self.stages)):
            self._due[pid] = now + self.draw.uniform(0, self.took.get(job, 2.0))

    def _strike(self, running: subprocess.Popen, now: float) -> bool:
        """Kill what is due; whether everything was killed."""
        pid = min(self._due, key=self._due.get)
        stage, job, began = self._began[pid]
        whole = len(self.kills) % 2 == 1
        del self._due[pid]
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        if whole:
            for other in processes_of(running.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
        self.kills.append(Kill(stage, job, now - began, whole))
        self._of_job[job] += 1
        print(f"{len(self.kills)}: {self.kills[-1]}", flush=True)
        return whole


def processes_of(session: int) -> list[int]:
    """The processes of a session, its leader first."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if os.getsid(int(folder.name)) == session:
                    found.append(int(folder.name))
            except (ProcessLookupError, PermissionError):
                continue
    return sorted(found, key=lambda pid: pid != session)


def stages_of(session: int) -> dict[int, tuple[str, str]]:
    """pid -> stage and log of every `longrope STAGE` that runs in a session."""
    found = {}
    for pid in processes_of(session):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if "--log" not in words or not any(word.endswith("longrope") for word in words[:2]):
            continue
        options = iter(words[words.index("--log") :])  # pairs of them, then the stage
        values = {}
        for word in options:
            if not word.startswith("--"):
                found[pid] = word, values["--log"]
                break
            values[word] = next(options)
    return found


def run_study(place: Path, config: Path, killer: Killer, log: Path) -> int:
    """Run it, and again after every kill; how many starts that took."""
    starts = 0
    while True:
        starts += 1
        with log.open("a") as file:
            if any((place / ".snakemake/locks").glob("*")):
                subprocess.run(
                    snakemake(place, config, "--unlock"), stdout=file, stderr=file, check=True
                )
            before = len(killer.kills)
            running = subprocess.Popen(
                snakemake(place, config, "--cores", "2", "--rerun-incomplete", "all"),
                start_new_session=True,
                stdout=file,
                stderr=file,
                cwd=ROOT,
            )
            killer.watch(running)
            code = running.wait()
        if code == 0:
            return starts
        if len(killer.kills) == before:
            raise SystemExit(f"the study failed and nobody had killed anything: {log}")


def new_place(folder: Path, default: bool) -> tuple[Path, Path]:
    """A folder to run the study in, and its configuration."""
    if default:
        folder.mkdir()
        for name in ("resources", "config"):
            (folder / name).symlink_to(ROOT / name)
        return folder, DEFAULT
    make_place(folder)
    config = configuration()  # with enough to do for most kills to hit work, not imports
    micro = config["models"]["micro"]
    micro["source"] |= {"checkpoint_every": 20}
    micro["source"]["phases"][0]["steps"] = 120
    micro["search"][256] |= {"evaluations": 24}
    for tuning in micro["tunings"].values():
        tuning |= {"steps": 30, "checkpoint_every": 5}
    path = folder / "micro.yaml"
    path.write_text(yaml.safe_dump(config))
    return folder, path


def times_of(place: Path) -> tuple[dict[str, float], set[str]]:
    """What the jobs of a finished study took, by log, and its stages, from the jobs' records."""
    seconds, stages = {}, set()
    for path in (place / "logs").rglob("*.run.json"):
        record = json.loads(path.read_text())
        log = path.relative_to(place).with_suffix("").with_suffix(".log")
        seconds[str(log)] = record["seconds"]
        stages.add(record["stage"])
    return seconds, stages


def different(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """The paths of two studies whose contents are not the same, or that one of them lacks."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def drafts(results: Path) -> list[str]:
    """What killed processes have left of files that they were writing."""
    return sorted(str(path.relative_to(results)) for path in results.rglob("*.part"))


def table(killer: Killer, rounds: list[tuple[int, int, list[str], int]], files: int) -> str:
    """What was done and what came of it, as Markdown."""
    lines = [
        "| stage | jobs hit | process alone | with Snakemake | seconds into it |",
        "|:--|--:|--:|--:|:--|",
    ]
    for stage in dict.fromkeys(each.stage for each in killer.kills):
        of_it = [each for each in killer.kills if each.stage == stage]
        seconds = ", ".join(f"{each.after:.1f}" for each in sorted(of_it, key=lambda k: k.after))
        whole = sum(each.whole for each in of_it)
        jobs = len({each.job for each in of_it})
        lines.append(f"| {stage} | {jobs} | {len(of_it) - whole} | {whole} | {seconds} |")
    whole = sum(each.whole for each in killer.kills)
    lines.append(f"| **all** | | {len(killer.kills) - whole} | {whole} | |")
    lines += [
        "",
        "| study | kills | starts | files compared | different | drafts left |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for number, (kills, starts, wrong, left) in enumerate(rounds, 1):
        lines.append(f"| {number} | {kills} | {starts} | {files} | {len(wrong)} | {left} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--kills", type=int, default=110)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--default", action="store_true", help="the default study, with --done")
    parser.add_argument("--done", type=Path, metavar="FOLDER", help="where one is done undisturbed")
    parser.add_argument("--out", type=Path, help="write the table here, too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="longrope-kills-"))
    killer = Killer(random.Random(options.seed), 0)
    if options.done:
        undisturbed = everything(options.done / "results")
        killer.took, killer.stages = times_of(options.done)
    else:
        place, config = new_place(folder / "undisturbed", False)
        run_study(place, config, killer, folder / "undisturbed.log")
        undisturbed = everything(place / "results")
    print(f"undisturbed: {len(undisturbed)} files, {sum(killer.took.values()):.0f} s of stages")
    killer.wanted = options.kills
    rounds = []
    while len(killer.kills) < options.kills:
        before, name = len(killer.kills), f"study-{len(rounds) + 1}"
        place, config = new_place(folder / name, options.default)
        killer.next_study()
        starts = run_study(place, config, killer, folder / f"{name}.log")
        wrong = different(undisturbed, everything(place / "results"))
        left = drafts(place / "results")
        rounds.append((len(killer.kills) - before, starts, wrong, len(left)))
        print(f"{name}: {rounds[-1][0]} kills, {starts} starts, {len(wrong)} of"
              f" {len(undisturbed)} files differ {wrong[:5]}, {len(left)} drafts left"
              f" {left[:5]}", flush=True)  # fmt: skip
        if rounds[-1][0] == 0:
            raise SystemExit(f"a whole study in which nothing was hit: {folder}")
        said = table(killer, rounds, len(undisturbed))
        if options.out:
            study = "the default study" if options.default else "a lean study"
            about = ABOUT.format(study=study, kills=options.kills, seed=options.seed)
            options.out.write_text(f"# Stages killed at random points\n\n{about}\n{said}\n")
    print(said)
    return 1 if any(wrong for _, _, wrong, _ in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
