"""
Starts a stage in several processes, and says in one message why they ended.

On each machine one process, this one, watches over its ranks (torch's elastic agent, as torchrun
does) and never runs a stage itself. A rank that died takes the others with it; one that stopped
answering does so once the others' patience is over. Nothing is restarted here: whoever submitted
the stage tries again, and it goes on from its state.
"""

import argparse
import ctypes
import math
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

from longrope.devices import SETTING, UNLEASED, lease_several, leasing
from longrope.errors import UserError
from longrope.parallel.place import check_gpus
from longrope.parallel.reasons import Ended, cause_of, reports_in

SPREAD = ("finetune", "search", "evaluate-perplexity", "evaluate-passkey")  # stages that can be
PR_SET_PDEATHSIG = 1  # of prctl(2)
THIS_JOB = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_CLUSTER_NAME")
MEETING = 300  # seconds that a machine looks for the first one
ENDING = 60  # that torch may take to end all ranks once one has failed; it kills after 30


def wants_several(options: argparse.Namespace) -> bool:
    """Whether a command asks for more than one process."""
    return options.processes * options.nodes > 1


def launch(options: argparse.Namespace, arguments: list[str]) -> int:
    """Run `longrope ARGUMENTS` in so many processes; returns the exit code, as `run_stage` does."""
    check_spreads(options.stage)
    if options.nodes > 1 and not options.rendezvous:
        return _through_slurm(options, arguments)
    return _watch(options, arguments)


def check_spreads(stage: str) -> None:
    """Raise UserError unless a stage can run in several processes."""
    if stage not in SPREAD:
        raise UserError(
            f"{stage} runs in one process: leave --processes and --nodes out, and torchrun"
            f" (several can run {', '.join(SPREAD)})"
        )


def _through_slurm(options: argparse.Namespace, arguments: list[str]) -> int:
    """Start one watching process on every node of this Slurm job."""
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            f"--nodes {options.nodes}: outside a Slurm job, start the same command on every node"
            " with --rendezvous HOST:PORT, of the first one"
        )
    command = [
        "srun",
        f"--nodes={options.nodes}",
        f"--ntasks={options.nodes}",
        "--ntasks-per-node=1",
        "--overlap",  # with the step that this may run in
        "--cpu-bind=none",  # all cores that the job has on a node, and all of its memory
        "--mem=0",
        "--kill-on-bad-exit=1",
        sys.executable,
        "-m",
        "longrope.cli",
        "--rendezvous",
        f"{socket.gethostname()}:{free_port()}",
        *arguments,
    ]
    os.execvpe(command[0], command, step_environment())


def step_environment() -> dict[str, str]:
    """What srun may take from the environment: which job this is.

    The rest, of a job that was started otherwise or of a step that this runs in, may contradict
    what is asked for: tasks a GPU, memory a core, cores to be bound to.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in THIS_JOB or not name.startswith(("SLURM_", "SRUN_"))
    }


def free_port() -> int:
    """A port that nobody on this machine uses just now, so that two stages of a job do not meet."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        return taken.getsockname()[1]


def _watch(options: argparse.Namespace, arguments: list[str]) -> int:
    # Read when torch is loaded, which else warns of every try to reach a machine.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed import DistNetworkError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from longrope.parallel.loopback import meet_on_loopback

    _lease(options.processes)
    os.environ["OMP_NUM_THREADS"] = str(threads_of_each(options.processes))
    with tempfile.TemporaryDirectory(prefix="longrope-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=options.nodes,
            max_nodes=options.nodes,
            nproc_per_node=options.processes,
            run_id=(options.rendezvous or "longrope").replace("/", "-"),
            rdzv_backend="c10d" if options.rendezvous else meet_on_loopback(),
            rdzv_endpoint=options.rendezvous or "",
            rdzv_configs={"join_timeout": math.ceil(options.patience), "read_timeout": MEETING},
            local_addr=None if options.rendezvous else "127.0.0.1",
            max_restarts=0,
            monitor_interval=0.5,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        _quiet()
        over = threading.Event()
        threading.Thread(
            target=_end_anyway, args=(Path(folder), options, over), daemon=True
        ).start()
        try:
            elastic_launch(config, sys.executable)("-m", "longrope.cli", *arguments)
        except ChildFailedError as error:
            ended = {
                # `error_file_data` is torch's own where a rank left no report
                rank: Ended(each.exitcode, report if "code" in report else {}, each.timestamp)
                for rank, each in error.failures.items()
                for report in [each.error_file_data]
            }
            ranks = options.processes * options.nodes
            said, code = cause_of(ended, ranks, options.stage, options.patience)
            print(said, file=sys.stderr)
            return code
        except (RendezvousError, DistNetworkError) as error:
            if any(Path(folder).iterdir()):  # ranks were started: the machines had met
                print(
                    f"longrope {options.stage}: another of {options.nodes} machines has ended, or"
                    " cannot be reached any more: what it says is why; run the stage again, it goes"
                    " on from its state",
                    file=sys.stderr,
                )
                return 1
            said = str(error) or f"they waited {options.patience:g} s"
            raise UserError(
                f"{options.nodes} machines did not meet at {options.rendezvous}: {said}; is the"
                " command running on each of them, and can they reach that address?"
            ) from error
        except SignalException as error:
            print(f"longrope {options.stage}: ended by {error.sigval.name}", file=sys.stderr)
            return 128 + error.sigval.value
        finally:
            over.set()
    return 0


def _end_anyway(folder: Path, options: argparse.Namespace, over: threading.Event) -> None:
    """End this process where torch does not, though a rank of it has failed some time ago.

    Torch asks the store after the other machines, and waits without a limit for its answer: for
    ever, if the machine that has it stands still. The ranks end with this process.
    """
    while not (found := reports_in(folder)):
        if over.wait(1):
            return
    if over.wait(ENDING):
        return
    ended = {rank: Ended(1, report) for rank, report in found.items()}
    ranks = options.processes * options.nodes
    said, code = cause_of(ended, ranks, options.stage, options.patience)
    print(said, file=sys.stderr, flush=True)
    os._exit(code)


def threads_of_each(processes: int) -> int:
    """The threads of one rank: its share of those that Snakemake, or whoever starts the command,
    gave all of it; else of the cores that it may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(asked) if asked.isdecimal() else cores()) // processes)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lease(processes: int) -> None:
    """The GPUs of this machine that the ranks use, leased where they are; UserError if too few."""
    import torch

    check_gpus(processes)
    if leasing() and torch.cuda.is_available():
        found = torch.cuda.device_count()
        # Those that are visible are counted from 0, whatever they are called.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else list(map(str, range(found)))
        leased = [names[index] for index in lease_several(processes)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(leased)
        os.environ[SETTING] = UNLEASED


def _quiet() -> None:
    """The agent's own reports say the same at more length."""
    import logging

    for name in logging.root.manager.loggerDict:  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def end_with_watcher() -> None:
    """Let the system kill this rank when the process that watches over it is killed.

    Else it would go on with what it is at, for hours perhaps, on GPUs and on a state that whoever
    tries again takes as well. Linux alone can.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
