"""
A real Slurm of two nodes on one machine, for the tests: real daemons, real jobs, pretended GPUs.

    python tests/slurm/cluster.py up FOLDER      # start; everything but two files lives in FOLDER
    python tests/slurm/cluster.py down FOLDER    # end it, and remove those two files

Both nodes are this machine. They pretend to 16 cores, 512 GB and one (n1) or two (n2) GPUs, so that
the jobs of `profiles/slurm` fit unchanged; Slurm counts and assigns them and sets
CUDA_VISIBLE_DEVICES, but nothing limits what a job uses: no cgroups, no accounting, no systemd.
Needs root and the Debian packages slurmctld, slurmd, slurm-client and munge. slurm.conf and
gres.conf lie in /etc/slurm while it runs, because Snakemake's plugin takes SLURM_CONF from its
jobs; a Slurm that is configured there already is never touched.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ETC = Path("/etc/slurm")
MARK = "# longrope test cluster in "  # the first line of a slurm.conf that is ours
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
NODES = {"n1": 1, "n2": 2}  # name -> GPUs


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    lacking = [name for name in PROGRAMS if find(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (apt-get install slurmctld slurmd munge)"
    if os.geteuid() != 0:
        return "slurmctld, slurmd and their jobs of other users need root"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(MARK):
        return f"{conf}: this machine belongs to another Slurm"
    return None


def configured() -> "Cluster | None":
    """The test cluster that /etc/slurm knows, alive or not."""
    conf = ETC / "slurm.conf"
    if not conf.exists() or not conf.read_text().startswith(MARK):
        return None
    return Cluster(Path(conf.read_text().splitlines()[0].removeprefix(MARK)))


def find(program: str) -> str | None:
    """The path of a program; daemons are in folders that a PATH may leave out."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """The daemons of one cluster, whose state lies in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()

    def __enter__(self) -> "Cluster":
        self.up()
        return self

    def __exit__(self, *_) -> None:
        self.down()

    # --- up and down ------------------------------------------------------------------------

    def up(self) -> None:
        """Start it, and wait until both nodes take jobs."""
        if (reason := missing()) is not None:
            raise SystemExit(f"no Slurm here: {reason}")
        if (other := configured()) is not None:
            if other.alive():
                raise SystemExit(f"another test cluster runs: cluster.py down {other.folder}")
            other.down()  # what a crash left
        conf = ETC / "slurm.conf"
        for name in ("log", "run", "state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munge's socket is for everyone
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        ETC.mkdir(exist_ok=True)
        conf.write_text(self.slurm_conf())
        (ETC / "gres.conf").write_text(self.gres_conf())
        self.start_munge()
        run(find("slurmctld"), "-c")
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def down(self) -> None:
        """End all jobs and daemons, and take the two files out of /etc."""
        if self.running("slurmctld"):
            subprocess.run([find("scancel"), "--user", "root"], capture_output=True, timeout=30)
            wait(lambda: not self.queue(), 20)
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "munged"):
            self.end(name)
        if (ours := configured()) is not None and ours.folder == self.folder:
            (ETC / "slurm.conf").unlink()
            (ETC / "gres.conf").unlink(missing_ok=True)

    # --- nodes ------------------------------------------------------------------------------

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, which takes it up again after `lose_node`."""
        run(find("slurmd"), "-N", node)

    def lose_node(self, node: str) -> None:
        """What a machine that lost its power looks like: the daemon and all it started are gone."""
        self.end(f"slurmd.{node}", signal.SIGKILL)
        tasks = [pid for pid, _ in processes() if environment(pid).get("SLURMD_NODENAME") == node]
        holders = {parent(pid) for pid in tasks}  # slurmstepd, which would report how they ended
        for pid in [each for each in holders if name_of(each) == "slurmstepd"] + tasks:
            kill(pid, signal.SIGKILL)

    def queue(self) -> list[str]:
        """One line a job that has not ended: number, state, node."""
        options = ("--noheader", "--format", "%i %T %N")
        return run(find("squeue"), *options).splitlines()

    def wait_until_idle(self, seconds: float = 120) -> None:
        states = ("--noheader", "--Node", "--states", "idle", "--format", "%N")
        if not wait(lambda: len(set(run(find("sinfo"), *states).split())) == len(NODES), seconds):
            raise SystemExit(f"nodes are not idle after {seconds} s:\n{run(find('sinfo'), '-R')}")

    # --- daemons ----------------------------------------------------------------------------

    def start_munge(self) -> None:
        options = {
            "key-file": "munge.key",
            "socket": "run/munge.socket",
            "pid-file": "run/munged.pid",
            "seed-file": "run/munged.seed",
            "log-file": "log/munged.log",
        }
        # Only root can have written these folders, but munge looks at every parent.
        flags = [f"--{name}={self.folder / path}" for name, path in options.items()]
        run(find("munged"), "--force", *flags)

    def pid(self, name: str) -> int | None:
        try:
            return int((self.folder / f"run/{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def running(self, name: str) -> bool:
        pid = self.pid(name)
        return pid is not None and any(
            each == pid and Path(command.split()[0]).name == name.split(".")[0]
            for each, command in processes()
        )

    def alive(self) -> bool:
        return self.running("slurmctld")

    def end(self, name: str, by: signal.Signals = signal.SIGTERM) -> None:
        """End one daemon, by its own process id, and wait for it."""
        if self.running(name):
            kill(self.pid(name), by)
            if not wait(lambda: not self.running(name), 20):
                kill(self.pid(name), signal.SIGKILL)
        (self.folder / f"run/{name}.pid").unlink(missing_ok=True)

    # --- configuration ----------------------------------------------------------------------

    def slurm_conf(self) -> str:
        host, folder = socket.gethostname(), self.folder
        ports = free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            f" CPUs=16 RealMemory=512000 Gres=gpu:{gpus}"
            for (node, gpus), port in zip(NODES.items(), ports[1:], strict=True)
        )
        return f"""{MARK}{folder}
ClusterName=longrope
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=20
KillWait=5
OverTimeLimit=0
MinJobAge=7200
GresTypes=gpu
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=cpu Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={",".join(NODES)} MaxTime=INFINITE State=UP
"""

    def gres_conf(self) -> str:
        """Any character devices do as GPUs that nothing opens."""
        devices = iter(("/dev/null", "/dev/zero", "/dev/full"))
        return "".join(
            f"NodeName={node} Name=gpu File={next(devices)}\n"
            for node, gpus in NODES.items()
            for _ in range(gpus)
        )


# --- processes ---------------------------------------------------------------------------------


def run(*command: str) -> str:
    """Run a command that must succeed; what it printed."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {result.stderr or result.stdout}")
    return result.stdout


def wait(until, seconds: float) -> bool:
    """Wait for something to be true; whether it became so."""
    end = time.monotonic() + seconds
    while not (done := until()) and time.monotonic() < end:
        time.sleep(0.2)
    return bool(done)


def processes() -> list[tuple[int, str]]:
    """The number and command line of every process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        if command:
            found.append((int(folder.name), command))
    return found


def environment(pid: int) -> dict[str, str]:
    try:
        parts = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(part.split("=", 1) for part in parts if "=" in part)


def parent(pid: int) -> int:
    """The parent of a process; 0 where there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def kill(pid: int, by: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, by)


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("do", choices=("up", "down"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    getattr(Cluster(arguments.folder), arguments.do)()
    print(f"{arguments.do}: {arguments.folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
