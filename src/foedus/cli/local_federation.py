"""A federation of real processes on this machine: a coordinator and nodes that dial it over loopback.

Every process is the leader of a group of its own and guarded by a pipe (:mod:`foedus.cli.guarded`), so that none is
left however this process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from foedus.cli.guarded import GRACE
from foedus.cli.output import say
from foedus.client.admin import create_join_token
from foedus.client.http import Connection
from foedus.domain.errors import RunFailedError
from foedus.node import owner
from foedus.node.datasets import add_dataset
from foedus.node.policy import FILE
from foedus.sandbox.bubblewrap import unavailable

START = 180.0
"""Seconds that a process may take to be up."""


@dataclass
class LocalFederation:
    """What runs in ``folder``: the coordinator's ``url`` and admin ``token``, and each node's home by its name."""

    folder: Path
    url: str = ""
    token: str = ""
    homes: dict[str, Path] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_coordinator(self) -> None:
        """Start a coordinator on a free port of 127.0.0.1, and learn its URL and the admin's token.

        Raises:
            RunFailedError: ``process_failed``.
        """
        arguments = ["coordinator", "start", "--folder", str(self.folder / "coordinator"), "--port", "0", "--json"]
        process = self._start("coordinator", arguments, stdout=subprocess.PIPE)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START)
        line = process.stdout.readline() if readable else b""
        try:
            data = json.loads(line)["data"]
        except (ValueError, KeyError):
            raise self.failed("coordinator") from None
        self.url, self.token = data["url"], data["token"]

    def start_node(self, name: str, part: Path, tag: str) -> None:
        """Make a node, have it join with a token of its own, offer ``part`` under its file's name, and start it."""
        home = self.folder / "nodes" / name
        owner.init(home, name)
        if unavailable():
            (home / FILE).write_text('sandbox = "off"\n', encoding="utf-8")
        with self.connection() as connection:
            owner.join(home, self.url, create_join_token(connection).token)
        add_dataset(home, part, part.stem, [tag])
        self.homes[name] = home
        self._start(name, ["node", "start", "--home", str(home)], stdout=subprocess.DEVNULL)

    def connection(self) -> Connection:
        """A connection as the coordinator's admin."""
        return Connection(self.url, self.token)

    def check(self) -> None:
        """See that every process is still there.

        Raises:
            RunFailedError: ``process_failed``.
        """
        names = ["coordinator", *self.homes]
        for name, process in zip(names, self.processes, strict=False):
            if process.poll() is not None:
                raise self.failed(name)

    def failed(self, name: str) -> RunFailedError:
        """That a process did not come up or has gone."""
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        last = lines[-1] if lines else "It said nothing."
        return RunFailedError("process_failed", f"The process of {name} failed.", last, f"See {self._log(name)}.")

    def stop(self) -> None:
        """End every process: SIGTERM, and after three seconds SIGKILL to its group."""
        for process in self.processes:
            _signal(process, signal.SIGTERM)
        until = time.monotonic() + GRACE
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        for process in self.processes:
            _signal(process, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def _start(self, name: str, arguments: list[str], stdout: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "foedus.cli.guarded", *arguments]
        # The user's own settings are for another federation; one thread each, for five processes share the cores.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FOEDUS_")}
        environment |= {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=stdout, stderr=log, env=environment, start_new_session=True
            )
        self.processes.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@contextlib.contextmanager
def local_federation(folder: Path) -> Iterator[LocalFederation]:
    """A federation in ``folder`` that is gone when the block ends, also by Ctrl-C, SIGTERM or SIGHUP."""
    folder.mkdir(parents=True)
    federation = LocalFederation(folder)
    kept = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield federation
    except SystemExit:
        say(f"Terminated. Every process is being stopped; what there is stays in {folder}.")
        raise
    finally:
        # A second Ctrl-C would leave processes behind; stopping takes three seconds at most.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        federation.stop()
        for number, handler in {**kept, signal.SIGINT: interrupt}.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
