"""Kill the coordinator and a node at every commit, rename and reply, for real: the model's digest stays the same.

The places are enumerated by an undisturbed run; a test holds that the list below is complete.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate
from foedus.store.artifacts import open_artifacts
from foedus.store.unit_of_work import Store
from tests.cluster.laws import Laws
from tests.faults.chained import Chained, chain_coordinator, numbered
from tests.faults.points import AGAIN, ALONE, COORDINATOR, GREETED, NODE, SOMETIMES
from tests.federation import LocalFederation, start_federation, stop, until
from tests.plans import prepared
from tests.postgres import Postgres
from tests.s3 import S3

DATA = {
    "name": "digits",
    "tags": ["digits"],
    "held_out": 0.2,
    "partition": {"name": "dirichlet", "alpha": 0.3, "clients": 2},
}
EAGER = Engine("eager", "inline")
VICTIM = "c0001"
SAMPLED = ("commit:contribute:before", "commit:close_phase:before", "commit:commit_round:after")
"""Where the coordinator is killed on PostgreSQL and S3 in `make test`; in `make soak` it is at every place."""

numbers = itertools.count()


@dataclass(frozen=True)
class Case:
    """A run that no other test submits (so nothing of it is cached), and the digest that it must end with."""

    ready: Prepared
    digest: str


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Two rounds over two clients, and what the simulation makes of them."""
    ready = _ready(tmp_path)
    return Case(ready, simulate(ready, EAGER).model_digest)


def _ready(folder: Path, rounds: int = 2) -> Prepared:
    strategy = {"name": "fedavg", "local": {"lr": 0.1 + next(numbers) / 1000}}
    return prepared(folder, data=DATA, cohort={"size": 2}, strategy=strategy, rounds=rounds)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two running nodes that have approved the plan."""
    with _begun(tmp_path_factory.mktemp("federation")) as running:
        yield running


@pytest.fixture(scope="module")
def shared_federation(
    postgres: Postgres, s3: S3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalFederation]:
    """The same, with what they know on PostgreSQL and S3."""
    folder = tmp_path_factory.mktemp("shared")
    with _begun(folder, postgres.fresh(), s3.fresh()) as running:
        yield running


@contextmanager
def _begun(folder: Path, database: str = "", blobs: str = "") -> Iterator[LocalFederation]:
    ready = _ready(folder)
    with start_federation(folder, prepared(folder, data=DATA), database, blobs) as running:
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


def _apart(place: str) -> dict[str, str]:
    """Settings by which a run passes this place: with them models travel by themselves, and not within messages."""
    return {"FOEDUS_COORDINATOR_INLINE": "0"} if place in ALONE else {}


def _places(log: Path) -> set[str]:
    return {line.rpartition(":")[0] for line in log.read_text().split("\n") if line}


def test_the_list_of_crash_points_is_complete(federation: LocalFederation, tmp_path: Path) -> None:
    logs = {"coordinator": tmp_path / "coordinator", "alone": tmp_path / "alone", "node": tmp_path / "node"}
    _restart_node(federation, FOEDUS_CRASH_LOG=str(logs["node"]))
    for name, settings in (("coordinator", {}), ("alone", _apart(ALONE[0]))):
        (tmp_path / name).with_suffix(".run").mkdir()
        ready = _ready((tmp_path / name).with_suffix(".run"))
        _restart_coordinator(federation, FOEDUS_CRASH_LOG=str(logs[name]), **settings)
        view = federation.finish(federation.submit(ready))
        assert view.model_digest == simulate(ready, EAGER).model_digest
    _restart_node(federation)
    _restart_coordinator(federation)
    assert _places(logs["coordinator"]) - set(SOMETIMES) == set(COORDINATOR) - set(ALONE)
    assert set(ALONE) <= _places(logs["alone"]) <= set(COORDINATOR) | set(SOMETIMES)
    assert _places(logs["node"]) - set(SOMETIMES) == set(NODE)


def test_case_9_the_coordinator_killed_everywhere_ends_with_the_same_digest(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """Case 9: at every place in turn, nearly all of them in one run."""
    again = list(itertools.chain(*AGAIN))
    turns = [[place for place in COORDINATOR if place not in again], *AGAIN]
    chained = chain_coordinator(federation, numbered(itertools.chain(*turns)), **_apart(ALONE[0]))
    until(f"the nodes greet, see {chained.log}", lambda: len(chained.died()) == len(GREETED))
    killed: list[str] = []
    for turn in turns:
        ready = _ready(tmp_path, rounds=5 if not killed else 1)
        view = federation.finish(federation.submit(ready))
        killed += numbered(turn)
        until(f"it died everywhere, see {chained.log}", lambda so_far=list(killed): chained.died() == so_far)
        assert (view.status, view.model_digest) == ("completed", simulate(ready, EAGER).model_digest), view.reason
    _hold_the_laws(federation)


def test_a_node_killed_everywhere_ends_with_the_same_digest(federation: LocalFederation, tmp_path: Path) -> None:
    """In one run, at every place in turn."""
    ready, places = _ready(tmp_path, rounds=5), numbered(NODE)
    stop(federation.nodes[VICTIM])
    chained = Chained(tmp_path, places, "node", "start", "--home", str(federation.home(VICTIM)))
    federation.nodes[VICTIM] = chained.process
    view = federation.finish(federation.submit(ready))
    assert chained.died() == places, f"see {chained.log}"
    assert (view.status, view.model_digest) == ("completed", simulate(ready, EAGER).model_digest), view.reason
    _restart_node(federation)


@pytest.mark.soak
@pytest.mark.parametrize("place", COORDINATOR)
@pytest.mark.parametrize("occurrence", [1, 3])
def test_case_9_the_coordinator_killed_anywhere_ends_with_the_same_digest(
    place: str, occurrence: int, federation: LocalFederation, case: Case
) -> None:
    """Case 9: on SQLite and files, a run for each place and occurrence."""
    _killed_at(place, occurrence, federation, case)


def test_case_9_killed_on_a_database_server_and_an_object_store(
    shared_federation: LocalFederation, tmp_path: Path
) -> None:
    """Case 9: on PostgreSQL and S3, at a few places in one run."""
    ready, places = _ready(tmp_path), numbered(SAMPLED)
    chained = chain_coordinator(shared_federation, places)
    view = shared_federation.finish(shared_federation.submit(ready))
    assert chained.died() == places, f"see {chained.log}"
    assert (view.status, view.model_digest) == ("completed", simulate(ready, EAGER).model_digest), view.reason
    _hold_the_laws(shared_federation)


@pytest.mark.soak
@pytest.mark.parametrize("place", COORDINATOR)
@pytest.mark.parametrize("occurrence", [1, 3])
def test_case_9_killed_anywhere_on_a_database_server_and_an_object_store(
    place: str, occurrence: int, shared_federation: LocalFederation, case: Case
) -> None:
    """Case 9: on PostgreSQL and S3, a run for each place and occurrence."""
    _killed_at(place, occurrence, shared_federation, case)


def _killed_at(place: str, occurrence: int, federation: LocalFederation, case: Case) -> None:
    """Kill the coordinator there, start it again, and hold its end against the undisturbed run and the laws."""
    _restart_coordinator(federation, FOEDUS_CRASH=f"{place}:{occurrence}", **_apart(place))
    victim = federation.coordinator
    assert victim is not None
    deaths: list[int] = []

    def revive() -> None:
        deaths.append(victim.wait())
        if deaths == [-signal.SIGKILL]:
            federation.start_coordinator()

    reviver = threading.Thread(target=revive)
    reviver.start()
    if "hello" in place:  # a node that notices no restart has no reason to greet
        _restart_node(federation)
    try:
        view = federation.finish(federation.submit(case.ready))
        if occurrence == 1:  # some places are passed after the run has ended
            until("the crash point is reached", lambda: victim.poll() is not None)
    finally:
        if victim.poll() is None:
            stop(victim)
        reviver.join()
    if deaths != [-signal.SIGKILL]:
        federation.start_coordinator()
    assert (view.status, view.model_digest) == ("completed", case.digest)
    assert deaths == [-signal.SIGKILL] or occurrence > 1, "the crash point was not reached"
    _hold_the_laws(federation)


def _hold_the_laws(federation: LocalFederation) -> None:
    """Whatever was killed: I1, I6, I7 and I8 hold in what is stored."""
    folder = federation.folder / "coordinator"
    store = Store(federation.database or f"sqlite:///{folder / 'coordinator.db'}")
    try:
        Laws().check(store, open_artifacts(folder, federation.blobs))
    finally:
        store.close()


@pytest.mark.soak
@pytest.mark.parametrize("place", NODE)
@pytest.mark.parametrize("occurrence", [1, 3])
def test_a_node_killed_anywhere_ends_with_the_same_digest(
    place: str, occurrence: int, federation: LocalFederation, case: Case
) -> None:
    _restart_node(federation, FOEDUS_CRASH=f"{place}:{occurrence}")
    victim = federation.nodes[VICTIM]
    run = federation.submit(case.ready)
    until(
        "the node dies or the run ends", lambda: victim.poll() is not None or federation.show(run).status == "completed"
    )
    died = victim.poll() == -signal.SIGKILL
    _restart_node(federation)
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", case.digest)
    assert died or occurrence > 1, "the crash point was not reached"
