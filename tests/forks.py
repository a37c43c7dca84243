"""
Commands that are killed by the dozen: a process that has imported what is heavy forks for each of
them, so that starting one again takes no seconds. A command can be told to kill itself just before
the Nth change that it makes to the disk, or that the disk is full from then on: a moment that no
load of the machine moves.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HEAVY = (
    *("torch", "transformers.models.llama.modeling_llama", "accelerate", "pandas"),
    *("torch.distributed.checkpoint.state_dict", "longrope.search.stage", "longrope.search.cma_es"),
    *("longrope.training.finetune", "longrope.evaluate.perplexity", "longrope.evaluate.passkey"),
)

CODE = """
import errno, importlib, json, os, signal, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from longrope.cli import main
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
torch.set_num_threads(1)

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}

def watch(dies_at, full_at):
    changes, flush = [0], os.fsync

    def full():
        if full_at and changes[0] >= full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def note(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            if str(path).startswith("/dev/") or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        changes[0] += 1
        if changes[0] == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if event in ("open", "os.mkdir"):
            full()

    def flushed(file):
        full()
        flush(file)

    os.fsync = flushed
    sys.addaudithook(note)
    return changes

for line in sys.stdin:
    asked = json.loads(line)
    inside, outside = os.pipe()
    child = os.fork()
    if not child:
        os.chdir(asked["folder"])
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1), os.dup2(said, 2)
        changes = watch(asked["dies_at"], asked["full_at"])
        code = main(asked["words"])
        sys.stdout.flush()
        os.write(outside, str(changes[0]).encode())
        os._exit(code)
    os.close(outside)
    print(child, flush=True)
    status = os.waitpid(child, 0)[1]
    print(json.dumps([status, int(os.read(inside, 100) or -1)]), flush=True)
    os.close(inside)
"""


class Forks:
    """The process that forks, one command at a time; a context that ends it."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        words = [sys.executable, "-c", CODE, json.dumps(HEAVY)]
        self._forks = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_) -> None:
        self._forks.stdin.close()
        self._forks.wait()

    def start(self, folder: Path, words: list, dies_at: int = 0, full_at: int = 0) -> int:
        """Begin `longrope WORDS` in a folder, whose said.txt gets what it prints; its pid."""
        asked = {"folder": str(folder), "words": [*map(str, words)]}
        asked |= {"dies_at": dies_at, "full_at": full_at}
        print(json.dumps(asked), file=self._forks.stdin, flush=True)
        return int(self._forks.stdout.readline())

    def wait(self) -> tuple[int, int]:
        """How it ended, an exit code or minus a signal, and how often it changed the disk."""
        status, changes = json.loads(self._forks.stdout.readline())
        return os.waitstatus_to_exitcode(status), changes

    def run(self, folder: Path, words: list, **moments: int) -> tuple[int, int]:
        """Both."""
        self.start(folder, words, **moments)
        return self.wait()
