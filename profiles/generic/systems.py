"""
How a job is submitted, looked at and cancelled on each batch system that profiles/generic knows.

Snakemake runs submit.py, status.py and cancel.py, which ask here. Only `Local` is tested: the
others follow the manuals of PBS Pro, Grid Engine and LSF. It needs the standard library alone.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

SETTING = "LONGROPE_CLUSTER"
LOGS = Path(".snakemake/cluster_logs")  # what the batch system catches of a job


class Request:
    """What a job asks for, as Snakemake wrote it into the job's script."""

    def __init__(self, script: str) -> None:
        self.script = str(Path(script).resolve())
        found = re.search(r"^# properties = (.*)$", Path(script).read_text(), re.MULTILINE)
        said = json.loads(found[1])
        resources = said["resources"]
        self.name = said.get("rule") or said["groupid"]
        self.threads = said["threads"]
        self.memory = resources["mem_mb"]  # of the whole job
        self.minutes = resources["runtime"]
        self.gpus = resources.get("gpus", 0)


class Local:
    """Processes in the background of this machine, to try the profile without a cluster."""

    def submit(self, job: Request) -> str:
        LOGS.mkdir(parents=True, exist_ok=True)
        ended = Path(f"{job.script}.exit").resolve()
        with (LOGS / f"{Path(job.script).name}.log").open("w") as log:
            process = subprocess.Popen(
                ["sh", "-c", f"sh '{job.script}'; echo $? > '{ended}'"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return f"{process.pid}:{ended}"

    def status(self, job: str) -> str:
        pid, _, ended = job.partition(":")
        if Path(ended).exists() and (code := Path(ended).read_text().strip()):
            return "success" if code == "0" else "failed"
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return "failed"  # killed: it wrote no exit code
        return "failed" if state == "Z" else "running"

    def cancel(self, jobs: list[str]) -> None:
        for job in jobs:
            os.killpg(int(job.partition(":")[0]), signal.SIGTERM)


class Pbs:
    """PBS Pro and OpenPBS."""

    def submit(self, job: Request) -> str:
        chunk = f"select=1:ncpus={job.threads}:mem={job.memory}mb"
        chunk += f":ngpus={job.gpus}" if job.gpus else ""
        time = f"walltime={60 * job.minutes}"  # seconds
        asked = ["-V", "-N", job.name, "-l", chunk, "-l", time, "-j", "oe", "-o", log_folder()]
        return output("qsub", *asked, job.script).strip()

    def status(self, job: str) -> str:
        said = output("qstat", "-x", "-f", job)
        if not re.search(r"job_state = F", said):
            return "running"
        return "success" if re.search(r"Exit_status = 0\b", said) else "failed"

    def cancel(self, jobs: list[str]) -> None:
        output("qdel", *jobs)


class Sge:
    """Grid Engine. The parallel environment and the GPU are named differently at every site."""

    PARALLEL, GPU = "smp", "gpu"

    def submit(self, job: Request) -> str:
        limits = [f"h_rt={60 * job.minutes}", f"h_vmem={-(-job.memory // job.threads)}M"]
        limits += [f"{self.GPU}={job.gpus}"] if job.gpus else []
        asked = ["-terse", "-V", "-cwd", "-N", job.name, "-pe", self.PARALLEL, str(job.threads)]
        asked += ["-l", ",".join(limits), "-j", "y", "-o", log_folder()]
        return output("qsub", *asked, job.script).strip()

    def status(self, job: str) -> str:
        if subprocess.run(["qstat", "-j", job], capture_output=True).returncode == 0:
            return "running"
        ended = subprocess.run(["qacct", "-j", job], capture_output=True, text=True)
        if ended.returncode != 0:
            return "running"  # accounting is a little late
        fine = re.search(r"^failed\s+0\b", ended.stdout, re.MULTILINE)
        zero = re.search(r"^exit_status\s+0\b", ended.stdout, re.MULTILINE)
        return "success" if fine and zero else "failed"

    def cancel(self, jobs: list[str]) -> None:
        output("qdel", *jobs)


class Lsf:
    """LSF; memory in MB, as most sites set LSF_UNIT_FOR_LIMITS."""

    def submit(self, job: Request) -> str:
        where = f"span[hosts=1] rusage[mem={job.memory}]"
        asked = ["-J", job.name, "-n", str(job.threads), "-R", where, "-W", str(job.minutes)]
        asked += ["-gpu", f"num={job.gpus}"] if job.gpus else []
        said = output("bsub", *asked, "-o", f"{log_folder()}/%J.log", "sh", job.script)
        return re.search(r"Job <(\d+)>", said)[1]

    def status(self, job: str) -> str:
        state = output("bjobs", "-noheader", "-o", "stat", job).strip()
        return {"DONE": "success", "EXIT": "failed"}.get(state, "running")

    def cancel(self, jobs: list[str]) -> None:
        output("bkill", *jobs)


SYSTEMS = {"local": Local, "pbs": Pbs, "sge": Sge, "lsf": Lsf}


def system():
    """The one that the environment names."""
    name = os.environ.get(SETTING)
    if name not in SYSTEMS:
        raise SystemExit(f"{SETTING}={name}: set it to one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]()


def log_folder() -> str:
    LOGS.mkdir(parents=True, exist_ok=True)
    return str(LOGS.resolve())


def output(*command: str) -> str:
    """What a command prints; its complaint, where it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        print(result.stderr, file=sys.stderr)
        raise SystemExit(result.returncode)
    return result.stdout
