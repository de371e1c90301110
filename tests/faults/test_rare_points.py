"""Kill the coordinator where no undisturbed run passes: draws, giving up, chunks, collection, restoration, mending.

As in ``test_crash_points``: a real process dies at each place, and the run ends with the digest of the simulation, the
audit chain verifies, and the laws hold. One process is killed at several places, one after another.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select

from foedus.client import blobs, runs
from foedus.client.recording import recording
from foedus.coordinator.backup import backup
from foedus.coordinator.run_rows import find_run
from foedus.domain.errors import ConflictError
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.replay import replay
from foedus.engine.simulate import simulate
from foedus.store.artifacts import hash_file
from foedus.store.blobs import upload_parts
from foedus.store.tables import blobs as blob_rows
from foedus.store.tables import uploads
from tests.faults import points
from tests.faults.chained import ROOT, Chained, chain_coordinator, hold_the_laws, numbered, opened
from tests.federation import LocalFederation, start_federation, stop, until
from tests.plans import DIGITS, prepared

EAGER = Engine("eager", "inline")
DATA = {"name": "digits", "tags": ["digits"], "held_out": 0.2, "partition": {"name": "iid", "clients": 2}}
LATER = pytest.param(2, marks=pytest.mark.soak)
AFTER_A_ROUND = "commit:commit_round:after:1"
PAGE = 4096


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two running nodes that have approved the plan."""
    folder = tmp_path_factory.mktemp("rare")
    ready = prepared(folder, data=DATA, cohort={"size": 2}, rounds=1)
    with start_federation(folder, ready) as running:
        run = running.submit(ready)
        running.approve_all(ready.bundle.digest)
        assert running.finish(run).status == "completed"
        yield running


@pytest.fixture
def ready(tmp_path: Path, request: pytest.FixtureRequest) -> Prepared:
    """A run of two rounds that no other test submits."""
    lr = 0.1 + sum(request.node.name.encode()) / 1e6
    return prepared(tmp_path, data=DATA, cohort={"size": 2}, strategy={"name": "fedavg", "local": {"lr": lr}})


def test_every_commit_of_a_run_is_a_place_where_something_is_killed() -> None:
    made = r'(?:transaction|_writing|transact\(parts,)\s*\(?\s*"(\w+)"'
    texts = [path.read_text() for path in (ROOT / "src" / "foedus" / "coordinator").glob("*.py")]
    named = {name for text in texts for name in re.findall(made, text)}
    known = (*points.COORDINATOR, *points.SOMETIMES, *points.RARE)
    killed = {place.split(":")[1] for place in known if place.startswith("commit:")}
    assert named - killed == set(points.ELSEWHERE)


def _killed_after_a_round(federation: LocalFederation, ready: Prepared) -> str:
    """Submit a run; its coordinator is killed when the first round was committed, and stays away."""
    assert federation.coordinator is not None
    stop(federation.coordinator)
    federation.start_coordinator(FOEDUS_CRASH=AFTER_A_ROUND)
    run = federation.submit(ready)
    assert federation.coordinator.wait(120) == -signal.SIGKILL
    return run


def _ends_as_simulated(federation: LocalFederation, run: str, ready: Prepared) -> None:
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", simulate(ready, EAGER).model_digest), view.reason
    hold_the_laws(federation)


@pytest.mark.parametrize("occurrence", [1, LATER])
def test_case_9_killed_while_it_draws_gives_up_and_abandons(
    occurrence: int, federation: LocalFederation, tmp_path: Path
) -> None:
    """Both clients are silent until the attempt is abandoned; what was heard, replayed, gives the digest."""
    schedule = {"name": "buffered", "buffer": 2, "deadline": 20.0}
    cohort: dict[str, Any] = {"size": 2, "population": 2}
    changes = {"rounds": 2 * occurrence, "test": {"ratio": 0.0}}
    ready = prepared(tmp_path, data=DATA, cohort=cohort, schedule=schedule, **changes)
    places = numbered(points.DRAWS, occurrence)
    chained = chain_coordinator(federation, places)
    for node in federation.nodes.values():
        node.send_signal(signal.SIGSTOP)
    try:
        run = federation.submit(ready)
        if occurrence == 1:
            until(f"it died everywhere, see {chained.log}", lambda: chained.died() == places)
    finally:
        for node in federation.nodes.values():
            node.send_signal(signal.SIGCONT)
    view = federation.finish(run)
    assert view.status == "completed", view.reason
    with federation.connection() as connection:
        heard = recording(connection, run, view.round)
    assert replay(ready, heard, EAGER).model_digest == view.model_digest
    hold_the_laws(federation)


@pytest.mark.parametrize("occurrence", [1, LATER])
def test_case_9_killed_while_a_plan_goes_up_in_chunks(
    occurrence: int, federation: LocalFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the coordinator has not; what came up in pieces is what clients train."""
    ready = prepared(tmp_path, f"{DIGITS}# {occurrence}\n", data=DATA, cohort={"size": 2}, rounds=1)
    monkeypatch.setattr(blobs, "CHUNK", 128)
    places = numbered(points.UPLOADS, occurrence)
    chained = chain_coordinator(federation, places)
    run = federation.submit(ready)
    assert chained.died() == places or occurrence > 1
    federation.approve_all(ready.bundle.digest)
    _ends_as_simulated(federation, run, ready)


def _collect(federation: LocalFederation) -> None:
    """Collect an old upload and a blob that nobody named, killed on the way."""
    store, artifacts = opened(federation)
    stray, file = artifacts.put_bytes(b"stray"), artifacts.temporary()
    file.write_bytes(b"1234")
    part = artifacts.keep_part(file)
    with store.transaction("t") as tx:
        row = {"digest": stray, "size": 5, "created_at": 0.0, "used_at": 0.0}
        tx.execute(insert(blob_rows).values(**row, removing=0))
        begun = {"digest": stray, "size": 5, "actor": "somebody", "created_at": 0.0, "completed": 0}
        tx.execute(insert(uploads).values(id="up_old", **begun))
        tx.execute(insert(upload_parts).values(upload="up_old", start=0, size=4, part=part))
    command = ("coordinator", "gc", "--grace", "0", "--folder", str(federation.folder / "coordinator"))
    chained = Chained(federation.folder, places := numbered(points.COLLECTION), *command)
    assert chained.process.wait(120) == 0, chained.log.read_text()
    assert chained.died() == places
    assert not artifacts.has(stray) and list(artifacts.kept_parts()) == []
    with store.reading() as tx:
        assert tx.execute(select(blob_rows).where(blob_rows.c.digest == stray)).first() is None
        assert tx.execute(select(uploads).where(uploads.c.id == "up_old")).first() is None
    store.close()


def _restore(federation: LocalFederation) -> None:
    """Back up, lose the folder, and restore it, killed on the way."""
    store, artifacts = opened(federation)
    backup(store, artifacts, federation.folder / "backup")
    store.close()
    folder = federation.folder / "coordinator"
    folder.rename(federation.folder / "lost")
    command = ("coordinator", "restore", str(federation.folder / "backup"), "--folder", str(folder))
    chained = Chained(federation.folder, places := numbered(points.RESTORATION), *command)
    # Killed after its commit, a restoration is done, and the next one finds the database full.
    assert chained.process.wait(120) == ConflictError.exit_code, chained.log.read_text()
    assert chained.died() == places and "restore_not_empty" in chained.log.read_text()


def test_case_9_and_28_killed_while_garbage_is_collected_and_a_backup_is_restored(
    federation: LocalFederation, ready: Prepared
) -> None:
    """In the middle of a run, which ends on what was restored."""
    run = _killed_after_a_round(federation, ready)
    _collect(federation)
    _restore(federation)
    federation.start_coordinator()
    _ends_as_simulated(federation, run, ready)


def test_case_11_a_model_torn_between_two_rounds_is_made_again_and_killed_meanwhile(
    federation: LocalFederation, ready: Prepared
) -> None:
    """Case 11: the coordinator is killed, the current model is cut, and it is killed again while it mends."""
    run = _killed_after_a_round(federation, ready)
    store, artifacts = opened(federation)
    with store.reading() as tx:
        digest = find_run(tx, run).parts["model"]
    store.close()
    with artifacts.path(digest).open("r+b") as file:
        file.truncate(PAGE)
    chained = chain_coordinator(federation, places := numbered(points.MENDING))
    until(f"it died everywhere, see {chained.log}", lambda: chained.died() == places)
    until("it is there again", federation.is_ready)
    _ends_as_simulated(federation, run, ready)
    assert hash_file(artifacts.path(digest)) == digest
    (aside,) = (federation.folder / "coordinator" / "spoiled").iterdir()
    assert aside.stat().st_size == PAGE
    alerts = federation.show(run).alerts
    assert alerts and all("made again, of the 2 contributions to the phase train of round 1" in a for a in alerts)
    with federation.connection() as connection:
        assert "state_mended" in [event.name for event in runs.events(connection, run)]
    assert "is damaged" in chained.log.read_text()
    metrics = httpx.get(f"{federation.url}/metrics", trust_env=False).text
    assert 'foedus_states_damaged_total{outcome="mended"} 1.0' in metrics
