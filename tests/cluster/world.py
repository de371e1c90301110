"""A coordinator, its nodes and a person in a machine room: their own code, restarted from what they left on disk."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import greenlet
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from foedus.client import runs
from foedus.client.http import Connection
from foedus.coordinator.app import create_app, open_coordinator
from foedus.coordinator.context import Context
from foedus.coordinator.settings import Settings
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import FoedusError
from foedus.domain.plan import parse_bundle
from foedus.engine.prepare import Prepared
from foedus.node import agent, service
from foedus.node.frames import Done, Failed, Order
from foedus.node.outgoing import checked
from foedus.node.reasons import failure_of
from foedus.node.session import Session
from foedus.node.settings import NodeSettings
from foedus.node.vault import Vault
from foedus.store import crashpoints
from foedus.wire.http import Retry
from foedus.wire.messages import RunView
from tests.cluster.laws import Laws
from tests.cluster.network import Network, Server, Weather
from tests.cluster.runtime import PROCESS, Killed, Process, Room, SimEvent, here

URL = "http://127.0.0.1:1"
PATIENT = Retry(attempts=1000, cap=5.0)
BREATH = 0.02
"""Seconds for which others may go on between a commit and what comes after it, at most."""

UNIMPORTANT = frozenset({"renew"})
"""Commits that change nothing that a law speaks of."""

Look = Callable[[str], None]


class Labour:
    """Work processes, played by the agent's own: the same session, with pauses in place of the work's duration."""

    def __init__(self, home: Path, patience: object, policy: object) -> None:
        (home / "work").mkdir(exist_ok=True)
        self._sessions: dict[str, Session] = {}

    async def ask(self, order: Order, into: Path, stepped: Callable[[], None], hearing: object) -> Done | Failed:
        """Have an order done."""
        process = PROCESS.get()
        assert process is not None
        await asyncio.sleep(process.room.chance.random() ** 3 * 20)
        try:
            run = order.assignment.run
            if run not in self._sessions:
                self._sessions[run] = Session(parse_bundle(Path(order.bundle).read_bytes()), order.assignment)
            worked = self._sessions[run].work(order, stepped)
        except Exception as error:
            return failure_of(error)
        (into / "update").write_bytes(worked.update)
        (into / "state").write_bytes(worked.state)
        for kept, model in zip(worked.done.models, worked.models, strict=True):
            (into / kept.when).write_bytes(model)
        return checked(order, worked.done, into / "update")

    async def drop(self, run: str) -> None:
        """The run asks no more."""
        self._sessions.pop(run, None)

    async def tidy(self) -> None:
        """Nothing is idle."""

    async def close(self) -> None:
        """Nothing has to be ended."""


@dataclass
class World:
    """A folder with a coordinator and nodes that have joined, and the processes that live on it now."""

    folder: Path
    room: Room
    network: Network
    nodes: tuple[str, ...]
    token: str
    look: Look = lambda point: None
    """Called after each commit of the coordinator."""
    doomed: dict[str, int] = field(default_factory=dict)
    """After how many more crash points a process is killed."""
    running: dict[str, Process] = field(default_factory=dict)
    skews: dict[str, float] = field(default_factory=dict)
    context: Context | None = None
    _lock: Any = None

    async def start_coordinator(self) -> None:
        """Start it; it goes on with what is in its folder."""
        process = self._process("coordinator")
        starting = process.spawn(self._serve(process))
        starting.add_done_callback(self.room.look_at)
        await asyncio.wait([starting])

    async def _serve(self, process: Process) -> None:
        self.close()
        try:
            opened = open_coordinator(Settings(self.folder / "coordinator"))
        except Killed as error:
            traceback.clear_frames(error.__traceback__)  # what it had opened, a dead process has open no more
            raise
        self._lock = opened.lock
        self.context = opened.context
        self.token = opened.admin.token if opened.admin else self.token
        app = create_app(opened.context)
        lifespan = app.router.lifespan_context(app)
        await lifespan.__aenter__()
        self.network.server = Server(process, app)

    def start_node(self, name: str) -> None:
        """Start a node's agent."""
        process = self._process(name)
        process.spawn(self._live(process, self.folder / name)).add_done_callback(self.room.look_at)

    async def _live(self, process: Process, home: Path) -> None:
        with Vault(home) as vault:
            try:
                ending = service._Ending(home, SimEvent())  # type: ignore[arg-type]
                await service._live(vault, ending, NodeSettings(poll_wait=25.0))
            except FoedusError as error:
                self.room.note(f"{process.name} ends: {error.code}")
                process.alive = False

    async def heal(self) -> None:
        """End all trouble: whoever is dead is started again, and the clocks are right."""
        self.room.note("all is well again")
        self.network.weather = Weather()
        self.network.apart.clear()
        self.network.mute.clear()
        self.doomed.clear()
        for name in [*self.running]:
            self.turn_clock(name, 0.0)
        if not self.running["coordinator"].alive:
            await self.start_coordinator()
        for node in self.nodes:
            if not self.running[node].alive:
                self.start_node(node)

    def turn_clock(self, name: str, skew: float) -> None:
        """Have a process's clock show ``skew`` seconds more than it is, now and after a restart."""
        if self.skews.get(name, 0.0) != skew:
            self.room.note(f"the clock of {name} is {skew:+.0f} s off")
        self.skews[name] = self.running[name].skew = skew

    def check(self, laws: Laws) -> None:
        """Hold what is stored against the laws, once there is something."""
        if self.context is None:
            return
        try:
            laws.check(self.context.store, self.context.artifacts)
        except Exception as error:
            self.room.failures.append(error)
            raise

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()
        if self.context is not None:
            self.context.store.close()
        self._lock = self.context = None

    def kill(self, name: str) -> None:
        """Kill a process, if it lives."""
        if name in self.running:
            self.running[name].kill()

    def _process(self, name: str) -> Process:
        process = Process(self.room, name)
        process.skew = self.skews.get(name, 0.0)
        self.running[name] = process
        self.room.note(f"{name} starts")
        return process

    @contextmanager
    def below(self) -> Iterator[None]:
        """Exchange work processes, synchronous writes and crash points."""
        with pytest.MonkeyPatch.context() as patch, self.network.carrying():
            patch.setattr(agent, "Pool", Labour)
            for module in (agent, service):
                patch.setattr(module, "TICK", 2.0)
            patch.setattr(service, "SAID_EVERY", 60.0)
            patch.setattr(os, "fsync", lambda descriptor: None)
            patch.setattr(crashpoints, "reach", self._reach)
            event.listen(Engine, "connect", _fast)
            try:
                yield
            finally:
                event.remove(Engine, "connect", _fast)

    def _reach(self, kind: str, name: str, when: str) -> None:
        """A crash point: the process may die here, and after a commit others may come first."""
        process = PROCESS.get()
        if process is None:
            return
        left = self.doomed[process.name] = self.doomed.get(process.name, -1) - 1
        if left == 0:
            self.room.note(f"at {kind}:{name}:{when}")
            process.kill()
        if not process.alive:
            raise Killed
        if (kind, when) == ("commit", "after") and process.name == "coordinator":
            if name not in UNIMPORTANT:
                self.look(name)
            if greenlet.getcurrent() is not self.room.main:
                here().block(random.Random(f"{self.room.seed} {self.room.loop.time()} {name}").random() * BREATH)

    def submit(self, prepared: Prepared) -> RunView:
        """A person submits a run, and sees to it until it has ended; blocks the strand that calls."""
        submission = runs.Submission(prepared.spec, prepared.bundle, encode_tensors(prepared.model), prepared.manifest)
        with Connection(URL, self.token, PATIENT) as connection:
            view = runs.submit(connection, submission)
            while view.status != "completed":
                here().block(5.0)
                view = runs.show(connection, view.id)
                if view.status == "failed":
                    self.room.note(f"the run failed, and is resumed: {view.reason}")
                    view = runs.resume(connection, view.id)
        return view


def _fast(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


def copied(template: Path, folder: Path) -> Path:
    """A world's folder, as the template left it."""
    shutil.copytree(template, folder)
    return folder
