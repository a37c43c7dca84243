"""
Why ranks ended: what one that failed leaves for the process that watches over it, and the one
message that is made of what all have left.

Reports are files, so an error is said once, whichever rank met it.
"""

import json
import os
import re
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from longrope.parallel.pulse import Silence
from longrope.secret import hidden

REPORT = "TORCHELASTIC_ERROR_FILE"  # where a rank says why it failed; set by torch
LOST = (  # what a rank that lost another one says, and what torch calls the error
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
)
PLACE, ADVICE = re.compile(r"\[/\S+:\d+\] "), ". This is typically caused by"  # in gloo's words
TIMED_OUT = re.compile("tim(ed|e) ?out|no sign of life", re.IGNORECASE)


def leave_report(stage: str, error: BaseException, said: str | None) -> None:
    """Tell the watching process why this rank failed; `said` is None where it is a bug."""
    text = hidden(traceback.format_exc() if said is None else f"longrope {stage}: {said}")
    report = {
        "message": {
            "message": text.rstrip(),
            "extraInfo": {"timestamp": str(int(time.time())), "py_callstack": ""},
        },
        "code": 70 if said is None else 1,
        "lost": lost_another(error),
        "rank": int(os.environ.get("RANK", "0")),
    }
    if path := os.environ.get(REPORT):
        Path(path).write_text(json.dumps(report), encoding="utf-8")
    else:  # nobody watches over this rank
        print(text.rstrip(), file=sys.stderr)


def reports_in(folder: Path) -> dict[int, dict]:
    """What ranks of this machine have left so far in the folder of torch's logs."""
    found = {}
    for path in folder.rglob("error.json"):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # half written
            continue
        if "rank" in report:  # else torch's own
            found[report["rank"]] = report
    return found


def lost_another(error: BaseException) -> bool:
    """Whether a failure is only that of another rank, as it is seen from this one."""
    if isinstance(error, Silence):
        return True
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, RuntimeError) and any(each in said for each in LOST)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a rank of this machine ended that did not end well."""

    exitcode: int  # below 0: the signal that killed it
    report: dict = field(default_factory=dict)  # as `leave_report` wrote it; empty: not a word
    at: int = 0  # when, in seconds: its own word, or when it was found


def _short(message: str) -> str:
    """The last line, which says what happened, without the file of torch and its advice."""
    said = PLACE.sub("", message.splitlines()[-1])
    return said.partition(ADVICE)[0][:300]


def _when(each: tuple[int, Ended]) -> tuple[int, bool, int]:
    """In which order ranks ended; of those in the same second one that aborted did so later."""
    rank, ended = each
    return ended.at, ended.exitcode == -signal.SIGABRT, rank


def cause_of(ended: dict[int, Ended], ranks: int, stage: str, patience: float) -> tuple[str, int]:
    """What to say of the ranks that failed, and the exit code.

    A rank's own error comes first, then what those saw who waited for another in vain, then a rank
    that was killed; of several of a kind the earliest. Those that are left torch ends by SIGTERM,
    or SIGKILL; and one that waited too long for another on a GPU by SIGABRT.
    """
    ended = dict(sorted(ended.items(), key=_when))
    reports = {rank: each.report for rank, each in ended.items() if each.report}
    own = {rank: each for rank, each in reports.items() if not each["lost"]}
    if own:
        rank, report = next(iter(own.items()))
        where = f" (rank {rank} of {ranks})" if len(own) < len(ended) else ""
        return f"{report['message']['message']}{where}", report["code"]
    words = [_short(each["message"]["message"]) for each in reports.values()]
    silent = [each for each in words if TIMED_OUT.search(each)]
    killed = [rank for rank, each in ended.items() if each.exitcode < 0]
    killed = [rank for rank in killed if ended[rank].exitcode != -signal.SIGTERM]
    if silent:
        what = f"a rank of {ranks} did not answer for {patience:g} s ({silent[0]})"
    elif killed and ended[killed[0]].exitcode == -signal.SIGABRT:
        what = (
            f"rank {killed[0]} of {ranks} ended by SIGABRT, as torch does where a rank waited"
            f" more than {patience:g} s for another, or its GPU failed: what it printed says more"
        )
    elif killed:
        name = signal.Signals(-ended[killed[0]].exitcode).name
        what = f"rank {killed[0]} of {ranks} was killed by {name}"
    else:
        what = f"a rank of {ranks} was lost" + (f" ({words[0]})" if words else "")
    return f"longrope {stage}: {what}; run the stage again, it goes on from its state", 1
