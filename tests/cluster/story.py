"""One seed: a run on a cluster that fails for a while, and then no more; and how such a cluster is made."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from foedus.client import admin
from foedus.client.http import Connection
from foedus.domain.run import parse_spec
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared, prepare_spec
from foedus.engine.simulate import simulate
from foedus.node import blobs as node_blobs
from foedus.node import owner
from foedus.node.datasets import add_dataset
from foedus.node.files import write_durably
from foedus.node.transport import Link
from foedus.node.vault import PlanEntry, Vault
from foedus.wire.messages import Joined, JoinNode, RunView
from foedus.wire.public_keys import public_key
from foedus.wire.signing import Signer
from tests.cluster.laws import Laws
from tests.cluster.network import Network, Weather
from tests.cluster.runtime import Process, Room, Strand
from tests.cluster.world import PATIENT, URL, World, copied
from tests.federation import parts_of

PLAN = '''"""A point through which a line goes: two parameters."""

from torch import nn


def model():
    return nn.Linear(1, 1)


def loss(output, target):
    return nn.functional.mse_loss(output, target)


metrics = {}


def prepare(columns):
    return columns["features"], columns["label"].float()[:, None]
'''

SPEC = {
    "plan": "plan.py",
    "rounds": 2,
    "seed": 1,
    "strategy": {"name": "fedavg", "local": {"lr": 0.1, "batch_size": 4}, "server": {"optimizer": "adam"}},
    "cohort": {"size": 2, "minimum": 2},
    "test": {"every": 2},
    "data": {
        "name": "synthetic",
        "tags": ["points"],
        "options": {"clients": 2, "examples": 10, "features": 1, "classes": 2},
    },
}
PATIENCE = 1800.0
"""Seconds of the simulation after the last fault in which a run has to end."""


@dataclass(frozen=True)
class Scenery:
    """What every seed begins with: a folder to copy, the run, and the models that it has to come to."""

    template: Path
    prepared: Prepared
    nodes: tuple[str, ...]
    token: str
    models: Mapping[int, str]


def build_scenery(folder: Path) -> Scenery:
    """Make a coordinator whose nodes have joined and approved the plan; let a run go undisturbed on a copy of it."""
    (folder / "plan.py").write_text(PLAN)
    prepared = prepare_spec(parse_spec(SPEC), folder)
    template = folder / "template"
    parts = parts_of(prepared, folder / "parts")
    nodes = tuple(f"node-{client}" for client in parts)
    world = World(template, Room(0), None, nodes, "")  # type: ignore[arg-type]
    world.network = Network(world.room)
    for node, (client, part) in zip(nodes, parts.items(), strict=True):
        owner.init(template / node, node)
        add_dataset(template / node, part, client, ("points",))
        _approve(template / node, prepared)
    with world.below():
        world.room.run(_enrol_all(world))
    empty = Scenery(template, prepared, nodes, world.token, {})
    told = tell(empty, 0, calm=True)
    (undisturbed,) = told.laws.rounds.values()
    assert undisturbed[prepared.spec.rounds] == simulate(prepared, Engine("eager", "inline")).model_digest
    return replace(empty, models=undisturbed)


def _approve(home: Path, prepared: Prepared) -> None:
    digest = prepared.bundle.digest
    with Vault(home) as vault:
        write_durably(vault.bundle_path(digest), prepared.bundle.to_bytes(), "plan")
        vault.record_plan(PlanEntry(digest, "line", "ada", "pending", "", time.time(), None))
    owner.approve(home, digest)


async def _enrol_all(world: World) -> None:
    await world.start_coordinator()
    person = Process(world.room, "person")

    def tokens() -> list[str]:
        with Connection(URL, world.token, PATIENT) as connection:
            return [admin.create_join_token(connection).token for _ in world.nodes]

    for node, token in zip(world.nodes, await _by(person, tokens), strict=True):
        await Process(world.room, node).spawn(_join(world.folder / node, token))
    world.close()


async def _join(home: Path, token: str) -> None:
    with Vault(home) as vault:
        message = JoinNode(token=token, name=vault.identity().name, public_key=public_key(vault.private_key))
        async with Link(URL, Signer(message.public_key, vault.private_key)) as link:
            joined = await link.post("/node/join", message, Joined)
        vault.joined(joined.node, URL)


def _by(process: Process, work: object) -> asyncio.Future[object]:
    strand = Strand(process, "main", work)  # type: ignore[arg-type]
    strand.start()
    return strand.done


@dataclass(frozen=True)
class Told:
    """How a seed ended."""

    view: RunView
    laws: Laws
    room: Room
    requests: int


def tell(scenery: Scenery, seed: int, calm: bool = False) -> Told:
    """Live through one seed, and hold the laws after every commit of the coordinator."""
    room = Room(seed)
    laws = Laws(scenery.models)
    with _folder() as folder, pytest.MonkeyPatch.context() as patch:
        world = World(copied(scenery.template, folder / "world"), room, Network(room), scenery.nodes, scenery.token)
        world.look = lambda point: world.check(laws)
        patch.setattr(node_blobs, "CHUNK", room.chance.choice([100, 8 << 20]))
        with world.below():
            try:
                view = room.run(_story(world, scenery.prepared, calm))
            finally:
                world.close()
        assert not room.failures, room.failures
    return Told(view, laws, room, world.network.requests)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder in memory where there is one: nothing of a simulation has to outlive a power cut."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


async def _story(world: World, prepared: Prepared, calm: bool) -> RunView:
    room = world.room
    await world.start_coordinator()
    for node in world.nodes:
        world.start_node(node)
    faults = asyncio.gather(*([] if calm else [_trouble(world)]))
    ended = _by(Process(room, "person"), lambda: world.submit(prepared))
    await faults
    done, _ = await asyncio.wait([ended], timeout=PATIENCE)
    assert done, "the faults have ended, and the run goes on for ever"
    view = ended.result()
    world.check(Laws())
    assert isinstance(view, RunView)
    return view


async def _trouble(world: World) -> None:
    """Everything that can go wrong, for a while."""
    chance, network = world.room.chance, world.network
    until = chance.uniform(5, 120)
    network.weather = Weather(
        lost=chance.choice([0, 0.05, 0.3]),
        cut=chance.choice([0, 0.1]),
        twice=chance.choice([0, 0.1]),
        delay=chance.choice([0.01, 0.5, 3]),
    )
    world.room.note(f"trouble until {until:.0f} s: {network.weather}")
    kinds = chance.sample([_crashes, _deaths, _partitions, _clocks], chance.randint(1, 4))
    plagues = [asyncio.ensure_future(kind(world, Random(chance.random()))) for kind in kinds]
    await asyncio.sleep(until)
    for plague in plagues:
        plague.cancel()
    await asyncio.gather(*plagues, return_exceptions=True)
    await world.heal()


async def _crashes(world: World, chance: Random) -> None:
    """The coordinator dies at some crash point or instant, and is started again."""
    while True:
        await _death(world, "coordinator", chance, 60)
        await asyncio.sleep(chance.uniform(0, 10))
        await world.start_coordinator()


async def _deaths(world: World, chance: Random) -> None:
    """The same for a node."""
    while True:
        node = chance.choice(world.nodes)
        await _death(world, node, chance, 6)
        await asyncio.sleep(chance.uniform(0, 20))
        world.start_node(node)


async def _death(world: World, name: str, chance: Random, points: int) -> None:
    if chance.random() < 0.7:
        world.doomed[name] = chance.randint(1, points)
    limit = world.room.loop.time() + chance.uniform(0.1, 60)
    while world.running[name].alive:
        await asyncio.sleep(0.5)
        if world.room.loop.time() > limit:
            world.kill(name)
            return


async def _partitions(world: World, chance: Random) -> None:
    """Somebody reaches nobody for a while, or hears no reply."""
    while True:
        await asyncio.sleep(chance.uniform(0, 20))
        who, where = chance.choice([*world.nodes, "person"]), chance.choice([world.network.apart, world.network.mute])
        where.add(who)
        world.room.note(f"{who} is cut off")
        await asyncio.sleep(chance.uniform(1, 90))
        where.discard(who)


async def _clocks(world: World, chance: Random) -> None:
    """Somebody's clock shows another time for a while: ten minutes on a node, an hour on the coordinator."""
    while True:
        await asyncio.sleep(chance.uniform(0, 30))
        who = chance.choice([*world.nodes, "coordinator"])
        world.turn_clock(who, chance.uniform(-1, 1) * (3600 if who == "coordinator" else 600))
        await asyncio.sleep(chance.uniform(1, 30))
        world.turn_clock(who, 0.0)
