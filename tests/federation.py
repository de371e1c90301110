"""A live federation for tests: a real coordinator and real nodes, each a process of its own, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx

from foedus.client import admin, runs
from foedus.client.http import Connection
from foedus.data.catalogue import federate
from foedus.data.files import write_columns
from foedus.domain.codec import encode_tensors
from foedus.engine.prepare import Prepared
from foedus.node.datasets import Terms, add_dataset
from foedus.node.owner import approve, init, join, list_plans
from foedus.wire.http import Retry
from foedus.wire.messages import RunView
from tests.holding import opt_out
from tests.ports import free_port
from tests.warm import Started, start

WAIT = 240.0
"""Seconds after which what is awaited will not come; a loaded machine takes its time."""

PLAIN = Terms()
"""A dataset of which its owner says no more than its name and tags."""


def until(what: str, look: Callable[[], object], seconds: float = WAIT) -> None:
    """Wait until ``look()`` is true; fail with ``what`` if it never is."""
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.02)


def spawn(log: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """``foedus ARGUMENTS`` as a process in a group of its own, started from nothing, with its output in ``log``."""
    env = _environment(environment)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "foedus", *arguments], env=env, stdout=file, stderr=file, start_new_session=True
        )


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1", **changes}


def stop(process: subprocess.Popen[bytes] | Started, number: signal.Signals = signal.SIGTERM) -> int:
    """Send a signal to a process that we started, and wait for its end."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise


@dataclass
class LocalFederation:
    """A coordinator and nodes under ``folder``, on SQLite and files, or on the URLs ``database`` and ``blobs``."""

    folder: Path
    port: int = field(default_factory=free_port)
    token: str = ""
    database: str = ""
    blobs: str = ""
    coordinator: subprocess.Popen[bytes] | Started | None = None
    nodes: dict[str, subprocess.Popen[bytes] | Started] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the coordinator is."""
        return f"http://127.0.0.1:{self.port}"

    def connection(self) -> Connection:
        """A person's connection with the admin's token; it waits for a coordinator that is being started again."""
        return Connection(self.url, self.token, Retry(attempts=100, cap=1.0))

    def home(self, client: str) -> Path:
        """The home of the node that has the dataset ``client``."""
        return self.folder / f"node-{client}"

    def start_coordinator(self, **environment: str) -> None:
        """Start it, and wait until it is ready."""
        log = self.folder / "coordinator.log"
        self.coordinator = process = self.spawn_coordinator(log, self.port, **environment)
        until(f"the coordinator starts, see {log}", lambda: process.poll() is not None or self.is_ready())
        if not self.token:
            until("the admin token is shown", lambda: "fdp_" in log.read_text())
            self.token = "fdp_" + log.read_text().split("fdp_")[1].split()[0]

    def spawn_coordinator(self, log: Path, port: int, **environment: str) -> Started:
        """A process of the coordinator; with a database, it may be one of several replicas, each on its port."""
        arguments = ["coordinator", "start", "--folder", str(self.folder / "coordinator"), "--port", str(port)]
        return start(log, arguments, _environment({**self.storage, **environment}))

    @property
    def storage(self) -> dict[str, str]:
        """The settings that name the database and the blobs of a coordinator."""
        database = {"FOEDUS_COORDINATOR_DATABASE": self.database, "FOEDUS_COORDINATOR_MIGRATE": "1"}
        blobs = {"FOEDUS_COORDINATOR_BLOBS": self.blobs}
        return {**(database if self.database else {}), **(blobs if self.blobs else {})}

    def is_ready(self, port: int | None = None) -> bool:
        """Whether the coordinator answers, or its replica on another port."""
        with suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{port or self.port}/readyz"
            return httpx.get(url, timeout=5, trust_env=False).status_code == 200
        return False

    def enrol(self, client: str, data: Path, tags: tuple[str, ...] = ("digits",), terms: Terms = PLAIN) -> None:
        """Make a node, give it a dataset, and have it join."""
        home = self.home(client)
        init(home, f"node-{client}")
        opt_out(home)
        with self.connection() as connection:
            join(home, self.url, admin.create_join_token(connection).token)
        add_dataset(home, data, client, tags, terms)

    def start_node(self, client: str, **environment: str) -> None:
        """Start a node's agent."""
        log = self.folder / f"node-{client}.log"
        arguments = ["node", "start", "--home", str(self.home(client))]
        self.nodes[client] = start(log, arguments, _environment(environment))

    def greeted(self) -> None:
        """Wait until every node has told of its data; a draft needs them, a run that is submitted waits for them."""
        with self.connection() as connection:
            until(
                "every node has told of its data",
                lambda: len([node for node in admin.list_nodes(connection) if node.datasets]) >= len(self.nodes),
            )

    def submit(self, prepared: Prepared) -> str:
        """Submit a run; returns its id."""
        submission = runs.Submission(prepared.spec, prepared.bundle, encode_tensors(prepared.model), prepared.manifest)
        with self.connection() as connection:
            return runs.submit(connection, submission).id

    def approve_all(self, digest: str) -> None:
        """Every owner approves the plan as soon as their node has seen it."""
        for client in self.nodes:
            home = self.home(client)
            until(f"{client} sees the plan", lambda h=home: digest in {plan.digest for plan in list_plans(h)})
            approve(home, digest)

    def show(self, run: str) -> RunView:
        """The run as people see it."""
        with self.connection() as connection:
            return runs.show(connection, run)

    def finish(self, run: str, seconds: float = WAIT) -> RunView:
        """Wait for the run's end; returns it."""
        until(f"run {run} ends", lambda: self.show(run).status in {"completed", "failed", "cancelled"}, seconds)
        return self.show(run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in [*self.nodes.values(), *([self.coordinator] if self.coordinator else [])]:
            with suppress(subprocess.TimeoutExpired):
                stop(process)


def parts_of(prepared: Prepared, folder: Path) -> Mapping[str, Path]:
    """The clients' parts of a run's data set, each in a file."""
    folder.mkdir(exist_ok=True)
    paths = {}
    for name, columns in federate(prepared.spec, prepared.base).clients.items():
        paths[name] = folder / f"{name}.npz"
        write_columns(paths[name], columns)
    return paths


def start_federation(folder: Path, prepared: Prepared, database: str = "", blobs: str = "") -> LocalFederation:
    """A coordinator, and a running node for each client of the run."""
    federation = LocalFederation(folder, database=database, blobs=blobs)
    try:
        federation.start_coordinator()
        for client, path in parts_of(prepared, folder / "parts").items():
            federation.enrol(client, path)
            federation.start_node(client)
        federation.greeted()
    except BaseException:
        federation.__exit__()
        raise
    return federation
