"""
Starts a stage in several processes, and says in one message why they ended.

On each machine one process, this one, watches over its ranks (torch's elastic agent, as torchrun
does) and never runs a stage itself. Ranks leave the reason of a failure in a file that it reads, so
an error is said once, whichever rank met it. A rank that died takes the others with it; one that
stopped answering does so once the others' patience is over. Nothing is restarted here: whoever
submitted the stage tries again, and it goes on from its state.
"""

import argparse
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

from longrope.devices import HELD, SETTING, lease_several, leasing
from longrope.errors import UserError

SPREAD = ("finetune", "search", "evaluate-perplexity", "evaluate-passkey")  # stages that can be
REPORT = "TORCHELASTIC_ERROR_FILE"  # where a rank says why it failed; set by torch
LOST = (  # what a rank that lost another one says
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "DistBackendError",
    "DistNetworkError",
)
TIMED_OUT = re.compile("tim(ed|e) ?out", re.IGNORECASE)


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
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise UserError(
            f"--nodes {options.nodes}: outside a Slurm job, start the same command on every node"
            " with --rendezvous HOST:PORT, of the first one"
        )
    port = 20000 + zlib.crc32(job.encode()) % 20000
    command = [
        "srun",
        f"--nodes={options.nodes}",
        f"--ntasks={options.nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
        sys.executable,
        "-m",
        "longrope.cli",
        "--rendezvous",
        f"{socket.gethostname()}:{port}",
        *arguments,
    ]
    os.execvp(command[0], command)


def _watch(options: argparse.Namespace, arguments: list[str]) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _lease(options.processes)
    with tempfile.TemporaryDirectory(prefix="longrope-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=options.nodes,
            max_nodes=options.nodes,
            nproc_per_node=options.processes,
            run_id=(options.rendezvous or "longrope").replace("/", "-"),
            rdzv_backend="c10d",
            rdzv_endpoint=options.rendezvous or "127.0.0.1:0",
            rdzv_configs={"timeout": options.patience},
            max_restarts=0,
            monitor_interval=0.5,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        _quiet()
        try:
            elastic_launch(config, sys.executable)("-m", "longrope.cli", *arguments)
        except ChildFailedError as error:
            return _say(options, error.failures)
        except SignalException as error:
            print(f"longrope {options.stage}: ended by {error.sigval.name}", file=sys.stderr)
            return 128 + error.sigval.value
    return 0


def _lease(processes: int) -> None:
    """The GPUs of this machine that the ranks use, where they are leased."""
    import torch

    if torch.cuda.is_available() and leasing():
        # Those that are visible are counted from 0, whatever they are called.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
        leased = [names[index] for index in lease_several(processes)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(leased)
        os.environ[SETTING] = HELD


def _quiet() -> None:
    """The agent's own reports say the same at more length."""
    import logging

    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def leave_report(stage: str, error: BaseException, said: str | None) -> None:
    """Tell the watching process why this rank failed; `said` is None where it is a bug."""
    text = traceback.format_exc() if said is None else f"longrope {stage}: {said}"
    report = {
        "message": {
            "message": text.rstrip(),
            "extraInfo": {"timestamp": str(int(time.time())), "py_callstack": ""},
        },
        "code": 70 if said is None else 1,
        "lost": lost_another(error),
    }
    if path := os.environ.get(REPORT):
        Path(path).write_text(json.dumps(report), encoding="utf-8")
    else:  # nobody watches over this rank
        print(text.rstrip(), file=sys.stderr)


def lost_another(error: BaseException) -> bool:
    """Whether a failure is only that of another rank, as it is seen from this one."""
    return isinstance(error, RuntimeError) and any(each in str(error) for each in LOST)


def _say(options: argparse.Namespace, failures: dict) -> int:
    """One message about the ranks that failed on this machine; returns the exit code."""
    ranks = f"of {options.processes * options.nodes}"
    reports = {
        rank: each.error_file_data
        for rank, each in sorted(failures.items())
        if "code" in each.error_file_data  # others ended without a word
    }
    own = {rank: each for rank, each in reports.items() if not each["lost"]}
    if own:
        rank, report = next(iter(own.items()))
        where = f" (rank {rank} {ranks})" if len(own) < len(failures) else ""
        print(f"{report['message']['message']}{where}", file=sys.stderr)
        return report["code"]
    # Those that are left torch ends: by SIGTERM, and by SIGKILL where that does nothing.
    silent = any(TIMED_OUT.search(each["message"]["message"]) for each in reports.values())
    died = [(-each.exitcode, rank) for rank, each in failures.items() if each.exitcode < 0]
    died = [(number, rank) for number, rank in died if number != signal.SIGTERM]
    if silent or not died:
        what = f"a rank {ranks} " + (
            f"did not answer for {options.patience:g} s" if silent else "was lost"
        )
        for report in list(reports.values())[:1]:  # torch's own words
            what += f" ({report['message']['message'].splitlines()[-1][:300]})"
    else:
        number, rank = min(died)
        what = f"rank {rank} {ranks} was killed by {signal.Signals(number).name}"
    print(
        f"longrope {options.stage}: {what}; run the stage again, it goes on from its state",
        file=sys.stderr,
    )
    return 1
