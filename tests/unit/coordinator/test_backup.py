"""A backup that was taken while a round went on becomes a coordinator again, on the same storage or another kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select, update

from foedus.coordinator.backup import backup, restore
from foedus.coordinator.integrity import check
from foedus.coordinator.live import Live
from foedus.coordinator.supervisor import Supervisor
from foedus.domain.errors import FoedusError
from foedus.store import audit
from foedus.store.artifacts import Artifacts, open_artifacts
from foedus.store.tables import assignments, events, rounds, runs
from foedus.store.unit_of_work import Store
from tests.unit.coordinator.scene import Scene

CLIENTS = ("alpha", "beta", "gamma")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Three nodes; one of them has answered in round 1."""
    (tmp_path / "one").mkdir()
    scene = Scene(tmp_path / "one")
    for client in CLIENTS:
        scene.enrol(client)
    return scene


def _until_the_middle(scene: Scene) -> str:
    run = scene.submit()
    supervisor = Supervisor(scene.live)
    supervisor.start()
    try:
        scene.contribute(scene.take("alpha"))
        scene.take("beta")
    finally:
        supervisor.stop()
    with scene.live.store.transaction("t") as tx:
        audit.record(tx, audit.Act("ada", "test"))
    return run


@pytest.fixture(params=["sqlite and folder", "postgresql and s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, Path]:
    """A new database, a new storage, and the folder of a process."""
    folder = tmp_path / "two"
    folder.mkdir()
    if request.param == "sqlite and folder":
        return f"sqlite:///{folder / 'db'}", "", folder
    return request.getfixturevalue("postgres_url"), request.getfixturevalue("s3_url"), folder


def _opened(place: tuple[str, str, Path]) -> tuple[Store, Artifacts]:
    url, bucket, folder = place
    return Store(url, migrate=True), open_artifacts(folder, bucket)


def test_case_28_a_backup_from_the_middle_of_a_round_goes_on_from_there(
    scene: Scene, place: tuple[str, str, Path], tmp_path: Path
) -> None:
    """Case 28: what was contributed then counts, what came later is asked again, and the model is the same."""
    run = _until_the_middle(scene)
    expected = scene.expected(CLIENTS)
    made = backup(scene.live.store, scene.live.artifacts, tmp_path / "backup")
    assert made.blobs >= 4
    store, artifacts = _opened(place)
    try:
        assert restore(store, artifacts, tmp_path / "backup").tables == made.tables
        assert check(store, artifacts).problems == ()
        with store.reading() as tx:
            states = dict(tx.execute(select(assignments.c.client, assignments.c.status)).all())
        assert states == {"alpha": "done", "beta": "open", "gamma": "open"}
        scene.live.store.close()
        scene.live = Live(store, artifacts)
        supervisor = Supervisor(scene.live)
        supervisor.start()
        try:
            scene.play(run, CLIENTS)
        finally:
            supervisor.stop()
        assert scene.show(run).status == "completed"
        assert scene.show(run).model_digest == expected
        with store.reading() as tx:
            numbers = tx.execute(select(events.c.seq).order_by(events.c.seq)).scalars().all()
        assert len(set(numbers)) == len(numbers)
    finally:
        store.close()


def test_a_backup_is_never_restored_into_what_is_there(scene: Scene, tmp_path: Path) -> None:
    _until_the_middle(scene)
    backup(scene.live.store, scene.live.artifacts, tmp_path / "backup")
    with pytest.raises(FoedusError) as refusal:
        restore(scene.live.store, scene.live.artifacts, tmp_path / "backup")
    assert refusal.value.code == "restore_not_empty"
    with pytest.raises(FoedusError) as refusal:
        backup(scene.live.store, scene.live.artifacts, tmp_path / "backup")
    assert refusal.value.code == "backup_exists"


@pytest.mark.parametrize("damage", ["manifest", "table", "blob changed", "blob gone", "revision"])
def test_a_damaged_backup_is_refused_and_leaves_no_rows(damage: str, scene: Scene, tmp_path: Path) -> None:
    _until_the_middle(scene)
    folder = tmp_path / "backup"
    backup(scene.live.store, scene.live.artifacts, folder)
    manifest, blob = folder / "backup.json", next((folder / "blobs").glob("??/*"))
    if damage == "manifest":
        manifest.unlink()
    elif damage == "table":
        (folder / "tables" / "runs.jsonl").write_text((folder / "tables" / "runs.jsonl").read_text() + "\n")
    elif damage == "blob changed":
        blob.write_bytes(blob.read_bytes()[:-1])
    elif damage == "blob gone":
        blob.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "revision": "0001"}))
    store = Store(f"sqlite:///{tmp_path / 'new.db'}")
    with pytest.raises(FoedusError) as refusal:
        restore(store, Artifacts(tmp_path / "new"), folder)
    codes = {"manifest": "backup_missing", "revision": "backup_revision"}
    assert refusal.value.code == codes.get(damage, "backup_damaged")
    with store.reading() as tx:
        assert tx.execute(select(runs.c.id)).all() == []
    store.close()


def test_a_check_finds_what_is_wrong(scene: Scene) -> None:
    _until_the_middle(scene)
    store, artifacts = scene.live.store, scene.live.artifacts
    good = check(store, artifacts)
    assert (good.problems, good.audit_entries > 0, good.blobs >= 4) == ((), True, True)
    with store.reading() as tx:
        model = tx.execute(select(rounds.c.model_blob)).scalars().one()
        update_blob = tx.execute(select(assignments.c.update).where(assignments.c.client == "alpha")).scalar_one()
    with artifacts.path(model).open("r+b") as file:
        file.truncate(10)
    artifacts.remove(update_blob)
    with store.transaction("t") as tx:
        tx.execute(update(rounds).values(round=1))
        tx.execute(update(audit.audit).where(audit.audit.c.seq == 1).values(body='{"actor":"eve"}'))
    found = check(store, artifacts).problems
    assert f"blob {model}: blob_spoiled" in found
    assert f"blob {update_blob}: blob_unknown" in found
    assert any(line.startswith("audit log: entry 1 does not hold") for line in found)
    assert any("rounds go from 1 to 1" in line for line in found)
