"""Kill the coordinator and a node at every commit, rename and reply, for real: the model's digest stays the same.

The places are enumerated by an undisturbed run; a test holds that the list below is complete.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate
from tests.faults.points import COORDINATOR, NODE
from tests.federation import LocalFederation, start_federation, stop, until
from tests.plans import prepared

DATA = {
    "name": "digits",
    "tags": ["digits"],
    "held_out": 0.2,
    "partition": {"name": "dirichlet", "alpha": 0.3, "clients": 2},
}
VICTIM = "c0001"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Two rounds over two clients."""
    return prepared(tmp_path_factory.mktemp("plan"), data=DATA, cohort={"size": 2})


@pytest.fixture(scope="module")
def expected(ready: Prepared) -> str:
    """The digest of the undisturbed simulation."""
    return simulate(ready, Engine("eager", "inline")).model_digest


@pytest.fixture(scope="module")
def federation(ready: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two running nodes that have approved the plan."""
    with start_federation(tmp_path_factory.mktemp("federation"), ready) as running:
        run = running.submit(ready)
        running.approve_all(ready.bundle.digest)
        assert running.finish(run).status == "completed"
        yield running


def _restart_coordinator(federation: LocalFederation, **environment: str) -> None:
    assert federation.coordinator is not None
    stop(federation.coordinator)
    federation.start_coordinator(**environment)


def _restart_node(federation: LocalFederation, **environment: str) -> None:
    stop(federation.nodes[VICTIM])
    federation.start_node(VICTIM, **environment)


def _places(log: Path) -> set[str]:
    return {line.rpartition(":")[0] for line in log.read_text().split("\n") if line}


def test_the_list_of_crash_points_is_complete(
    federation: LocalFederation, ready: Prepared, expected: str, tmp_path: Path
) -> None:
    logs = {"coordinator": tmp_path / "coordinator", "node": tmp_path / "node"}
    _restart_coordinator(federation, FOEDUS_CRASH_LOG=str(logs["coordinator"]))
    _restart_node(federation, FOEDUS_CRASH_LOG=str(logs["node"]))
    assert federation.finish(federation.submit(ready)).model_digest == expected
    _restart_node(federation)
    _restart_coordinator(federation)
    assert _places(logs["coordinator"]) - _readings(COORDINATOR) == set(COORDINATOR)
    assert _places(logs["node"]) == set(NODE)


def _readings(known: tuple[str, ...]) -> set[str]:
    """Replies to questions that people may or may not ask while a run goes on; they change nothing."""
    return {f"reply:GET {path}:{when}" for path in ("/readyz", "/api/v1/runs/{run}") for when in ("before", "after")}


@pytest.mark.parametrize("occurrence", [1, 3])
@pytest.mark.parametrize("place", COORDINATOR)
def test_the_coordinator_killed_anywhere_ends_with_the_same_digest(
    place: str, occurrence: int, federation: LocalFederation, ready: Prepared, expected: str
) -> None:
    _restart_coordinator(federation, FOEDUS_CRASH=f"{place}:{occurrence}")
    victim = federation.coordinator
    assert victim is not None
    deaths: list[int] = []

    def revive() -> None:
        deaths.append(victim.wait())
        if deaths == [-signal.SIGKILL]:
            federation.start_coordinator()

    reviver = threading.Thread(target=revive)
    reviver.start()
    try:
        view = federation.finish(federation.submit(ready))
    finally:
        if victim.poll() is None:
            stop(victim)
        reviver.join()
    if deaths != [-signal.SIGKILL]:
        federation.start_coordinator()
    assert (view.status, view.model_digest) == ("completed", expected)
    assert deaths == [-signal.SIGKILL] or occurrence > 1, "the crash point was not reached"


@pytest.mark.parametrize("occurrence", [1, 3])
@pytest.mark.parametrize("place", NODE)
def test_a_node_killed_anywhere_ends_with_the_same_digest(
    place: str, occurrence: int, federation: LocalFederation, ready: Prepared, expected: str
) -> None:
    _restart_node(federation, FOEDUS_CRASH=f"{place}:{occurrence}")
    victim = federation.nodes[VICTIM]
    run = federation.submit(ready)
    until(
        "the node dies or the run ends", lambda: victim.poll() is not None or federation.show(run).status == "completed"
    )
    died = victim.poll() == -signal.SIGKILL
    _restart_node(federation)
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", expected)
    assert died or occurrence > 1, "the crash point was not reached"
