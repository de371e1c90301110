"""What only time and number show: deliveries without end, rounds without end, a restart that many wait for, kills."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import psutil
import pytest
from sqlalchemy import func, insert, select

from foedus.coordinator import assignments
from foedus.coordinator.bells import of_node
from foedus.coordinator.supervisor import Supervisor
from foedus.domain.errors import FoedusError
from foedus.engine.choice import Engine
from foedus.engine.simulate import simulate
from foedus.node.owner import identity
from foedus.node.vault import Vault
from foedus.store.artifacts import open_artifacts
from foedus.store.tables import nodes, phase_events
from foedus.store.unit_of_work import Store
from foedus.wire.messages import Contribute
from tests.cluster.laws import Laws
from tests.federation import LocalFederation, parts_of, stop
from tests.plans import prepared
from tests.proxy import Trouble, proxied
from tests.unit.coordinator.scene import Scene

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

CLIENTS = ("c0000", "c0001")
DATA = {"name": "digits", "tags": ["digits"], "partition": {"name": "iid", "clients": 2}}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A coordinator's use cases with a driver, and two clients that the test plays."""
    made = Scene(tmp_path, size=2, rounds=10_000)
    for client in CLIENTS:
        made.enrol(client)
    yield made
    made.live.store.close()


def test_a_hundred_thousand_duplicate_deliveries_and_none_is_counted_twice(scene: Scene) -> None:
    """Case 3 at length: the same contribution again and again, and others under its lease."""
    run, supervisor = scene.submit(), Supervisor(scene.live)
    supervisor.start()
    chance, outcomes = random.Random(3), Counter[str]()
    taken = scene.take(CLIENTS[0])
    message = scene.message(taken)
    try:
        assert scene.contribute(taken) == "counted"
        for number in range(100_000):
            sent: Contribute = message
            if chance.random() < 0.1:
                sent = message.model_copy(update={"weights": {"examples": float(number % 7 + 1)}})
            try:
                node = scene.node_of[CLIENTS[0]]
                outcomes[assignments.contribute(scene.live, node, taken.id, sent).outcome] += 1
            except FoedusError as error:
                outcomes[error.code] += 1
    finally:
        supervisor.stop()
    with scene.live.store.reading() as tx:
        here = (phase_events.c.run_id == run, phase_events.c.client == CLIENTS[0])
        counted = tx.execute(select(func.count()).select_from(phase_events).where(*here)).scalar_one()
    print(f"\nduplicates: {sum(outcomes.values())} deliveries, {counted} counted, {dict(outcomes)}")
    assert counted == 1
    assert set(outcomes) == {"counted", "already_answered"}


def test_ten_thousand_rounds_in_flat_memory(scene: Scene) -> None:
    run, supervisor, process = scene.submit(), Supervisor(scene.live), psutil.Process()
    supervisor.start()
    began, marks, number, rung = time.monotonic(), dict[int, float](), 0, Event()
    try:
        with ExitStack() as bells:
            for client in CLIENTS:
                bells.enter_context(scene.live.bells.listening(of_node(scene.node_of[client].id), rung.set))
            while number < 10_000 or scene.show(run).round < 10_000:
                rung.clear()
                for client in CLIENTS:
                    for assignment in getattr(scene.poll(client), "assignments", ()):
                        scene.contribute(assignment)
                        number = assignment.round
                if number >= 1000 and number // 500 not in marks:
                    marks[number // 500] = process.memory_info().rss / 1e6
                assert rung.wait(1) or scene.show(run).status != "failed"
    finally:
        supervisor.stop()
    seconds, sizes = time.monotonic() - began, [marks[key] for key in sorted(marks)]
    print(f"\nrounds: 10000 in {seconds:.0f} s; from round 1000 on {sizes[0]:.0f} MB to {sizes[-1]:.0f} MB")
    assert sizes[-1] < 1.1 * sizes[0] + 10


def test_it_serves_again_within_five_seconds_of_a_kill_with_a_thousand_nodes_known(tmp_path: Path) -> None:
    with LocalFederation(tmp_path) as federation:
        federation.start_coordinator()
        store = Store(f"sqlite:///{tmp_path / 'coordinator' / 'coordinator.db'}")
        with store.transaction("join") as tx:
            for number in range(1000):
                row = {"id": f"nd_{number}", "name": f"n{number}", "public_key": str(number), "status": "active"}
                tx.execute(insert(nodes).values(**row, joined_at=0.0))
        store.close()
        assert federation.coordinator is not None
        stop(federation.coordinator, signal.SIGKILL)
        began = time.monotonic()
        federation.start_coordinator()
        seconds = time.monotonic() - began
        used = sum(psutil.Process(federation.coordinator.pid).cpu_times()[:2])
    print(f"\nrecovery: serving {seconds:.1f} s after kill -9, with 1000 nodes known ({used:.1f} s of processor time)")
    assert min(seconds, used) < 5


def test_two_hundred_kills_over_fifty_rounds_behind_a_proxy_that_fails(tmp_path: Path) -> None:
    """Cases 1, 9 and 20 at length: whoever is killed whenever, the run ends with the simulation's digest."""
    ready = prepared(tmp_path, data=DATA, cohort={"size": 2, "minimum": 2}, rounds=50)
    chance, kills, trouble = random.Random(200), Counter[str](), Trouble(latency=0.01, reset=0.1, twice=0.05)
    began = time.monotonic()
    with LocalFederation(tmp_path) as federation, proxied(federation.port, 200, trouble) as proxy:
        federation.start_coordinator()
        for client, part in parts_of(ready, tmp_path / "parts").items():
            federation.enrol(client, part)
            with Vault(federation.home(client)) as vault:
                vault.joined(str(identity(federation.home(client)).node), f"http://127.0.0.1:{proxy.port}")
            federation.start_node(client)
        run = federation.submit(ready)
        federation.approve_all(ready.bundle.digest)
        while (view := federation.show(run)).status != "completed":
            if view.status == "failed":
                with federation.connection() as connection:
                    connection.post(f"/runs/{run}/resume", type(view))
            # Five for each round that passed and the one at hand; who falls behind kills quicker, so that none passes.
            owed = 5 * (view.round + 1) - sum(kills.values())
            if owed <= 0:
                time.sleep(0.05)
                continue
            time.sleep(chance.uniform(0, 4 / owed))
            if chance.random() < 0.5:
                assert federation.coordinator is not None
                stop(federation.coordinator, signal.SIGKILL)
                federation.start_coordinator()
                kills["coordinator"] += 1
            else:
                client = chance.choice(CLIENTS)
                stop(federation.nodes[client], signal.SIGKILL)
                federation.start_node(client)
                kills["node"] += 1
    store = Store(f"sqlite:///{tmp_path / 'coordinator' / 'coordinator.db'}")
    Laws().check(store, open_artifacts(tmp_path / "coordinator"))
    store.close()
    done = f"{sum(kills.values())} kills ({dict(kills)}) over {view.round} rounds in {time.monotonic() - began:.0f} s"
    print(f"\nkills: {done}; {proxy.tally}; the digest is the undisturbed one")
    assert view.model_digest == simulate(ready, Engine("eager", "inline")).model_digest
    assert (view.round, view.status) == (50, "completed")
    assert sum(kills.values()) >= 200
    assert min(kills["coordinator"], kills["node"]) > 50
    assert proxy.tally.resets > 0
