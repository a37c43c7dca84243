"""
A page as a real browser shows it: Debian's chromium without a window, told what to do through its
DevTools protocol over two pipes, which needs no package and no port.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

LIMIT = 300  # seconds, after which a browser hangs
CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="apt-get install chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--remote-debugging-pipe", "--window-size=1400,1000"),
)
PIPES = 'exec "${@:3}" 3<&"$1" 4>&"$2" 2>/dev/null'  # it reads commands from 3 and answers on 4
PICTURES = """Promise.all([...document.images].map(async picture => {
    picture.loading = "eager"
    await picture.decode().catch(() => {})
    return picture.naturalWidth ? null : picture.src.slice(0, 200)
})).then(broken => broken.filter(each => each))"""


def messages(pipe: BinaryIO) -> Iterator[dict]:
    """What the browser says; a zero byte ends a message."""
    rest = b""
    while part := pipe.read1(1 << 20):
        *whole, rest = (rest + part).split(b"\0")
        yield from map(json.loads, whole)


class Page:
    """One tab, and all that went wrong in it."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO):
        self._commands, self._answers = commands, messages(answers)
        self._number, self._session = 0, None
        self.errors: list[str] = []  # of scripts, and of what it could not load
        self.fetched: list[str] = []  # addresses that are no file and no data
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def call(self, method: str, **parameters) -> dict:
        """What the browser answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(self, address: str) -> None:
        """Go there, and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script: str):
        """The value of an expression of JavaScript; a promise is waited for."""
        wanted = {"awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", expression=script, **wanted)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20):
        """The value of an expression as soon as it is one that is not empty."""
        until = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < until, f"nothing yet: {script}"
            time.sleep(0.05)
        return value

    def broken_pictures(self) -> list[str]:
        """Those that the browser cannot show."""
        return self.evaluate(PICTURES)

    def _next(self) -> dict:
        """The next message; events are noted."""
        message = next(self._answers, None)
        assert message, "the browser has ended"
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                thrown = details.get("exception", {})
                self.errors.append(thrown.get("description", details["text"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "assert"):
                self.errors.append(str([each.get("value") for each in about["args"]]))
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                address = about["request"]["url"]
                if not address.startswith(("file:", "data:", "blob:")):
                    self.fetched.append(address)
        return message


@contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A browser with an empty profile, which it keeps in this folder."""
    to_read, to_write = os.pipe(), os.pipe()
    theirs = (to_read[0], to_write[1])
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    shell = ["bash", "-c", PIPES, "bash", *map(str, theirs), *command]
    process = subprocess.Popen(
        shell, pass_fds=theirs, stdout=subprocess.DEVNULL, start_new_session=True
    )
    end = threading.Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))  # then reading fails
    end.start()
    for each in theirs:
        os.close(each)
    try:
        with open(to_read[1], "wb", buffering=0) as commands, open(to_write[0], "rb") as answers:
            yield Page(commands, answers)
    finally:
        end.cancel()
        process.terminate()
        process.wait(30)
