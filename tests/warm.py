"""
A `longrope` that begins at once: a process that has imported what is heavy forks for every call.

For workflows of dozens of jobs that take no time but for their imports. `warm(folder)` gives the
environment in which `longrope` is that one; all else is as in any shell. A whole workflow with the
installed command is the default study.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from forks import HEAVY

MORE = ("matplotlib.backends.backend_agg", "longrope.report.figures", "longrope.report.tables")
CLIENT = """#!{python} -ISs
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    line.sendall(asked)
    sys.exit(int(line.makefile().read() or 1))
"""


@contextlib.contextmanager
def warm(folder: Path) -> Iterator[dict[str, str]]:
    """An environment for subprocesses, as long as the block lasts."""
    folder.mkdir()
    address, command = str(folder / "line"), folder / "longrope"
    command.write_text(CLIENT.format(python=sys.executable, address=address))
    command.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline() == b"ready\n"
            yield os.environ | {"PATH": path}
        finally:
            server.kill()


def serve(address: str) -> None:
    """Fork for every call that comes."""
    for name in (*HEAVY, *MORE):
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
        print("ready", flush=True)
        while True:
            line, _ = door.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(line)
                os._exit(0)
            line.close()


def answer(line: socket.socket) -> None:
    """Run one call in a fork of its own, and send its exit code."""
    size, files, _, _ = socket.recv_fds(line, 8, 3)
    size, asked = int.from_bytes(size, "big"), b""
    while len(asked) < size:
        asked += line.recv(size - len(asked))
    arguments, folder, environment = json.loads(asked)
    if (child := os.fork()) == 0:
        for place, file in enumerate(files):
            os.dup2(file, place)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        os._exit(run(arguments))
    line.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def run(arguments: list[str]) -> int:
    import torch

    from longrope.cli import main

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
