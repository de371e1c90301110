"""Services of foedus as forks of one process that has imported them: a start costs a tenth of importing torch again.

Each is a process of its own, in a session of its own, with its own environment and log, ended by real signals. Only
where starting itself is what is tested, a process is started from nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Condition, Thread
from typing import Any

SERVICES = ("foedus.cli.coordinator_start", "foedus.cli.node_service", "foedus.cli.node_join")


def start(log: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Started:
    """``foedus ARGUMENTS`` as a process with exactly this environment, its output behind what is in ``log``."""
    log.touch()  # who looks into it at once finds it
    return _forge().start(log, arguments, environment)


@cache
def _forge() -> Forge:
    return Forge()


class Started:
    """A process that was forked; for who started it, like a :class:`subprocess.Popen`."""

    def __init__(self, pid: int, arguments: Sequence[str], forge: Forge) -> None:
        self.pid, self.args = pid, list(arguments)
        self._forge = forge

    @property
    def returncode(self) -> int | None:
        """As a process's: minus the signal that ended it."""
        return self._forge.codes.get(self.pid)

    def poll(self) -> int | None:
        """Its code, if it has ended."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its code, once it has ended."""
        with self._forge.news:
            if not self._forge.news.wait_for(lambda: self.pid in self._forge.codes, timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._forge.codes[self.pid]

    def send_signal(self, number: int) -> None:
        """Nothing, once it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


@dataclass
class Forge:
    """The process that forks, seen from the tests; it ends with them, and so does all that it has forked."""

    codes: dict[int, int] = field(default_factory=dict)
    news: Condition = field(default_factory=Condition)
    begun: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": f"src{os.pathsep}."}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        Thread(target=self._listen, daemon=True).start()
        atexit.register(self._end)

    def start(self, log: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Started:
        """Have one forked."""
        order = {
            "log": str(log.absolute()),
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(Path.cwd()),
        }
        assert self._process.stdin is not None
        with self.news:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            assert self.news.wait_for(lambda: bool(self.begun), 120), "the process that forks says nothing"
            return Started(self.begun.pop(), arguments, self)

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self.news:
                if "code" in said:
                    self.codes[said["pid"]] = said["code"]
                else:
                    self.codes.pop(said["pid"], None)  # of one before, with the same number
                    self.begun.append(said["pid"])
                self.news.notify_all()


def main() -> None:
    """Fork what is asked for on standard input, and tell on standard output of beginnings and ends."""
    for name in SERVICES:
        importlib.import_module(name)
    told, wake, woken = os.dup(1), *reversed(os.pipe())
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    living: set[int] = set()
    with selectors.DefaultSelector() as ready:
        for descriptor in (0, woken):
            ready.register(descriptor, selectors.EVENT_READ)
        rest = b""
        while True:
            for key, _ in ready.select():
                read = os.read(key.fd, 1 << 16)
                if key.fd == woken:
                    _reap(told, living)
                    continue
                if not read:
                    for pid in living:
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(pid, signal.SIGKILL)
                    return
                *lines, rest = (rest + read).split(b"\n")
                for line in lines:
                    pid = os.fork()
                    if not pid:
                        ready.close()
                        _become(json.loads(line), (told, wake, woken))
                    living.add(pid)
                    _tell(told, pid=pid)


def _become(order: dict[str, Any], mine: Sequence[int]) -> None:
    """Be the service that was asked for, to the end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in mine:
        os.close(descriptor)
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, instead in ((0, nothing), (1, log), (2, log)):
        os.dup2(instead, descriptor)
    os.close(log)
    os.close(nothing)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["foedus", *order["arguments"]]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]  # by which a service that is restarted begins anew
    importlib.import_module("foedus.cli.main").main()


def _reap(told: int, living: set[int]) -> None:
    """Tell of each that has ended."""
    for pid in [*living]:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            living.discard(pid)
            _tell(told, pid=pid, code=os.waitstatus_to_exitcode(status))


def _tell(told: int, **said: int) -> None:
    os.write(told, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main()
