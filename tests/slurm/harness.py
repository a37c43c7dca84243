"""
What the trials on a Slurm cluster share: a micro study, Snakemake on the cluster, and a log.

A trial is a command, `python tests/slurm/trial_NAME.py`, run as root where the packages of
`cluster.py` are installed. It starts the cluster, runs Snakemake with profiles/slurm, disturbs it,
checks what it claims, and writes docs/results/slurm/NAME.log: what was done, at which second, what
Snakemake said, what Slurm said of each job, and the checks. Paths and names of the machine are
taken out of it. A check that fails ends the trial with 1.
"""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import yaml
from cluster import Cluster, configured, processes, run, wait

sys.path.append(str(Path(__file__).parents[1]))
from micro import ROOT, configuration, make_place, snakemake

LOGS = ROOT / "docs/results/slurm"
PROFILES = ("--profile", str(ROOT / "profiles/slurm"), "--profile", str(ROOT / "tests/slurm/site"))
LONGEST = 3600  # seconds of what runs without Slurm; more is a hang
TUNED = "results/micro/yarn-256/model"
METRICS = "results/micro/yarn-256/training/metrics.jsonl"
STATE = "results/state/micro/yarn-256/finetune"
# What is worth keeping of Snakemake's output; the rest is the list of files of each job.
TELLING = re.compile(
    r"SLURM|[Ee]rror in|Trying to restart|going on from|steps \(|Nothing to be done|Complete log"
    r"|WorkflowError|Exiting|has been submitted|Fine-tuning|Deriving|tuning micro"
)
DULL = re.compile(r"Complete log|Cleaning up SLURM log|run ID|account")


def micro_study(place: Path, tuning: dict, cores: int = 2) -> Path:
    """A folder with the micro study, whose tuning `yarn-256` is changed; model and tokens are made
    here, without Slurm. Returns its configuration."""
    make_place(place)
    config = configuration()
    config["models"]["micro"]["tunings"]["yarn-256"] |= tuning
    path = place / "micro.yaml"
    path.write_text(yaml.safe_dump(config))
    tokens = "results/micro/data/excerpts/train"
    result = local(place, path, tokens, cores=cores)
    assert result.returncode == 0, result.stderr[-4000:]
    return path


def copy_of(study: Path, place: Path) -> Path:
    """Another such folder with the same model and tokens; returns its configuration."""
    shutil.copytree(study, place, symlinks=True)
    return place / "micro.yaml"


def local(place: Path, config: Path, *targets: str, cores: int = 1) -> subprocess.CompletedProcess:
    """Run Snakemake without Slurm."""
    command = snakemake(place, config, *targets, "--cores", str(cores), "--nocolor")
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=LONGEST)


def asking(place: Path, **resources) -> list[str]:
    """Options by which a tuning asks for other resources. `--set-resources`, or a profile with that
    key, replaces the whole key of profiles/slurm; so this is a profile that repeats all of it."""
    known = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())["set-resources"]
    known["finetune_model"] |= resources
    (place / "asking").mkdir(exist_ok=True)
    path = place / "asking/profile.yaml"
    path.write_text(yaml.safe_dump({"set-resources": known}))
    return ["--profile", str(path.parent)]


class OnSlurm:
    """Snakemake at work with profiles/slurm; what it says goes to a file."""

    def __init__(self, place: Path, config: Path, *arguments: str) -> None:
        self.place, self.output = place, place / "snakemake.out"
        command = snakemake(place, config, *PROFILES, *arguments, "--nocolor")
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT
            )

    def said(self) -> str:
        return self.output.read_text()

    def jobs(self, rule: str) -> list["Job"]:
        """The jobs of a rule that Slurm still knows, the oldest first."""
        known = slurm_jobs(self.place)
        return [each for each in known if each.rule.startswith(f"rule_{rule}")]

    def comes_to(self, until, seconds: float) -> bool:
        """Wait for something to be true, as long as Snakemake runs; whether it became so."""
        wait(lambda: until() or self.process.poll() is not None, seconds)
        return bool(until())

    def wait(self, seconds: float) -> int:
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"Snakemake did not end in {seconds} s:\n{self.said()}") from None

    def __enter__(self) -> "OnSlurm":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Job:
    """One job as squeue shows it, ended ones too."""

    FORMAT = "%i|%T|%M|%N|%m|%k"

    def __init__(self, line: str) -> None:
        self.number, self.state, self.time, self.node, memory, self.rule = line.split("|", 5)
        self.memory = megabytes(memory)  # asked for


def megabytes(text: str) -> int:
    """What squeue means by 64000M or 125G."""
    number, unit = re.fullmatch(r"([\d.]+)([MG]?)", text).groups()
    return round(float(number) * {"": 1, "M": 1, "G": 1024}[unit])


def slurm_jobs(place: Path) -> list[Job]:
    """Those that were submitted from a folder, or from one in it, and that Slurm still knows."""
    options = ("--noheader", "--states", "all", "--sort", "i", "--format", f"%Z|{Job.FORMAT}")
    lines = [line.split("|", 1) for line in run("squeue", *options).splitlines()]
    return [Job(job) for folder, job in lines if Path(folder).is_relative_to(place)]


def tuning_processes(place: Path) -> list[int]:
    """The processes of the stage itself in a folder, not of what started it."""
    stage = re.compile(r"\S*python\S* (\S*/longrope|-m longrope.cli) .*?finetune ")
    return [
        pid
        for pid, command in processes()
        if stage.match(command) and Path(f"/proc/{pid}/cwd").resolve() == place.resolve()
    ]


def steps_kept(place: Path) -> int:
    """The step of the last line of metrics that a tuning has written so far."""
    path = place / STATE / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def gone_on_from(place: Path) -> int:
    """The step that the last tuning job went on from; 0 if it began anew."""
    log = (place / "logs/micro/yarn-256/finetune.log").read_text()
    found = re.search(r"going on from (\d+)/", log)
    return int(found[1]) if found else 0


def result(place: Path) -> tuple[list[float], bytes]:
    """What must not depend on how a tuning came to its end: every loss, and the weights."""
    lines = (place / METRICS).read_text().splitlines()
    weights = (place / TUNED / "model.safetensors").read_bytes()
    return [json.loads(line)["loss"] for line in lines], weights


def any_is(state: str, run: OnSlurm):
    """A condition to wait for: a tuning job is in a state."""
    return lambda: any(each.state == state for each in run.jobs("finetune_model"))


class Trial:
    """A trial's cluster, folder and log."""

    def __init__(self, name: str, claim: str, folder: Path, cluster: Cluster) -> None:
        self.name, self.folder, self.cluster = name, folder, cluster
        self.began = time.monotonic()
        claim = claim.replace("\n", "\n# ")
        self.lines = [f"# {claim}", f"# python tests/slurm/trial_{name}.py", ""]

    def note(self, text: str) -> None:
        """Write down what happens now."""
        line = f"{time.monotonic() - self.began:6.0f} s  {text}"
        print(line, flush=True)
        self.lines.append(line)

    def check(self, claim: str, holds: bool) -> None:
        """Write down whether something holds; a trial with one that does not fails."""
        self.note(f"{'holds' if holds else 'FAILS'}: {claim}")
        if not holds:
            raise SystemExit(f"{self.name}: {claim}: does not hold")

    def wait_for(self, what: str, until, seconds: float) -> None:
        began = time.monotonic()
        if not wait(until, seconds):
            raise SystemExit(f"{self.name}: not within {seconds} s: {what}")
        self.note(f"{what} (waited {time.monotonic() - began:.0f} s)")

    def keep(self, title: str, text: str, telling: re.Pattern | None = None) -> None:
        """Put text into the log, only its telling lines if a pattern says which."""
        self.lines += ["", f"== {title}"]
        for line in text.splitlines():
            if telling is None or (telling.search(line) and not DULL.search(line)):
                self.lines.append(f"   {line.strip()[:160]}")

    def keep_log(self, place: Path) -> None:
        """Put the log of the last job that tuned into the log."""
        log = (place / "logs/micro/yarn-256/finetune.log").read_text()
        self.keep("What the last job printed", log)

    def keep_jobs(self) -> None:
        rows = [
            f"{each.number:>4} {each.state:<10} {each.time:>6} {each.node:<6} {each.rule}"
            for each in slurm_jobs(self.folder)
        ]
        self.keep("Jobs, as Slurm knows them: number, state, time, node, rule", "\n".join(rows))

    def write(self) -> None:
        text = "\n".join(self.lines) + "\n"
        for found, put in (
            (str(self.folder), "."),
            (str(ROOT), "ROOT"),
            (sys.prefix, "VENV"),
            (socket.gethostname(), "HOST"),
        ):
            text = re.sub(rf"{re.escape(found)}(?![\w-])", put, text)
        LOGS.mkdir(parents=True, exist_ok=True)
        (LOGS / f"{self.name}.log").write_text(text)


@contextmanager
def cluster_in(folder: Path):
    """The test cluster that runs already, or one of its own: trials may share one."""
    other = configured()
    if other is not None and other.alive():
        yield other
    else:
        with Cluster(folder) as cluster:
            yield cluster


@contextmanager
def trial(name: str, claim: str):
    """A cluster and a folder for one trial; its log is written however it ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the cluster ends
    with tempfile.TemporaryDirectory(prefix=f"longrope-{name}-") as folder:
        folder = Path(folder)
        with cluster_in(folder / "slurm") as cluster:
            this = Trial(name, claim.strip().partition("\n\n")[0], folder, cluster)
            try:
                yield this
            finally:
                this.keep_jobs()
                this.write()
