"""What nothing needs goes, in steps that may each be the last; what is needed stays."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from foedus.coordinator import runs
from foedus.coordinator.blob_rows import Quota, add_part, begin_upload, name_blobs, own_blob
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.retention import DAY, PROGRESS_DAYS, SPENT, UPLOAD_DAYS, collect, needed
from foedus.coordinator.supervisor import Supervisor
from foedus.domain.errors import UnreachableError
from foedus.store.blobs import blob_owners
from foedus.store.progress import progress
from foedus.store.tables import assignments, blobs, uploads
from foedus.wire.messages import NewUpload
from tests.unit.coordinator.scene import Scene

CLIENTS = ("alpha", "beta", "gamma")
NODE = NodeIdentity("nd_1", "one")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Three nodes, two rounds."""
    scene = Scene(tmp_path)
    for client in CLIENTS:
        scene.enrol(client)
    return scene


def _play(scene: Scene) -> str:
    run = scene.submit()
    supervisor = Supervisor(scene.live, "one", 6.0)
    supervisor.start()
    try:
        scene.play(run, CLIENTS)
    finally:
        supervisor.stop()
    return run


def _updates(scene: Scene) -> set[str]:
    with scene.live.store.reading() as tx:
        return set(tx.execute(select(assignments.c.update).where(assignments.c.update.is_not(None))).scalars())


def test_d6_updates_go_after_their_aggregation_and_d15_every_model_stays(scene: Scene) -> None:
    run = _play(scene)
    updates, artifacts = _updates(scene), scene.live.artifacts
    assert len(updates) == 6 and all(artifacts.has(digest) for digest in updates)
    assert collect(scene.live.store, artifacts, 3600.0).blobs == 0, "they are spent for less than a minute"
    found = collect(scene.live.store, artifacts, 3600.0, time.time() + SPENT + 1)
    assert (found.blobs, found.listed) == (6, True)
    assert not any(artifacts.has(digest) for digest in updates)
    with scene.live.store.reading() as tx:
        models = runs.list_models(tx, run).models
        owned = tx.execute(select(blob_owners.c.digest).where(blob_owners.c.digest.in_(updates))).all()
    assert [model.round for model in models] == [0, 1, 2]
    assert all(artifacts.path(model.blob).stat().st_size == model.size for model in models)
    assert owned == []
    assert collect(scene.live.store, artifacts, 0.0, time.time() + 3600).blobs == 4, "the optimizer's states of before"
    assert all(artifacts.has(model.blob) for model in models)


def test_d6_updates_stay_where_the_run_keeps_them(tmp_path: Path) -> None:
    scene = Scene(tmp_path, changes={"trainer": {"delete_local_models_after_aggregation": False}})
    for client in CLIENTS:
        scene.enrol(client)
    _play(scene)
    collect(scene.live.store, scene.live.artifacts, 0.0, time.time() + 10**6)
    assert len(_updates(scene)) == 6
    assert all(scene.live.artifacts.has(digest) for digest in _updates(scene))


def test_updates_of_an_open_phase_stay(scene: Scene) -> None:
    scene.submit()
    supervisor = Supervisor(scene.live, "one", 6.0)
    supervisor.start()
    try:
        scene.contribute(scene.take("alpha"))
    finally:
        supervisor.stop()
    assert collect(scene.live.store, scene.live.artifacts, 0.0, time.time() + 10**6).blobs == 0
    assert all(scene.live.artifacts.has(digest) for digest in _updates(scene))


def test_what_was_sent_and_never_named_goes_after_the_grace(scene: Scene) -> None:
    store, artifacts = scene.live.store, scene.live.artifacts
    stray, named = artifacts.put_bytes(b"stray"), artifacts.put_bytes(b"named")
    with store.transaction("blob") as tx:
        own_blob(tx, artifacts, named, NODE.actor)
    assert collect(store, artifacts, 3600.0).blobs == 0
    assert artifacts.has(stray) and artifacts.has(named)
    assert collect(store, artifacts, 3600.0, time.time() + 3700).blobs == 2
    assert not artifacts.has(stray) and not artifacts.has(named)
    with store.reading() as tx:
        assert tx.execute(select(blobs.c.digest)).all() == []


def test_a_blob_that_is_marked_cannot_be_named_and_comes_back_when_it_is_sent_again(scene: Scene) -> None:
    """Killed between the mark and the deletion, the next collection goes on."""
    store, artifacts = scene.live.store, scene.live.artifacts
    digest = artifacts.put_bytes(b"content")
    with store.transaction("t") as tx:
        name_blobs(tx, artifacts, [digest])
    with store.transaction("t") as tx:
        tx.execute(update(blobs).values(removing=1))
    with pytest.raises(UnreachableError) as refusal, store.transaction("t") as tx:
        name_blobs(tx, artifacts, [digest])
    assert refusal.value.code == "blob_removing"
    assert collect(store, artifacts, 3600.0).blobs == 1
    with pytest.raises(UnreachableError), store.transaction("t") as tx:
        name_blobs(tx, artifacts, [digest])
    artifacts.put_bytes(b"content")
    with store.transaction("t") as tx:
        name_blobs(tx, artifacts, [digest])
        assert tx.execute(select(blobs.c.removing)).scalars().all() == [0]


def test_a_blob_that_is_named_again_in_time_stays(scene: Scene) -> None:
    store, artifacts = scene.live.store, scene.live.artifacts
    digest = artifacts.put_bytes(b"content")
    with store.transaction("t") as tx:
        name_blobs(tx, artifacts, [digest])
        tx.execute(update(blobs).values(used_at=0.0))
    with store.transaction("t") as tx:
        name_blobs(tx, artifacts, [digest])
    assert collect(store, artifacts, 60.0).blobs == 0
    assert artifacts.has(digest)


def test_uploads_that_nobody_goes_on_with_are_forgotten_with_their_parts(scene: Scene) -> None:
    store, artifacts = scene.live.store, scene.live.artifacts
    file = artifacts.temporary()
    file.write_bytes(b"1234")
    digest = hashlib.sha256(b"12345").hexdigest()
    part = artifacts.keep_part(file)
    with store.transaction("t") as tx:
        upload = begin_upload(tx, NODE, NewUpload(digest=digest, size=5), Quota())
        add_part(tx, NODE, upload, (0, 4, part))
    assert collect(store, artifacts, 0.0, time.time() + (UPLOAD_DAYS - 1) * 86400).uploads == 0
    assert [name for name, _ in artifacts.kept_parts()] == [part]
    assert collect(store, artifacts, 0.0, time.time() + (UPLOAD_DAYS + 1) * 86400).uploads == 1
    assert list(artifacts.kept_parts()) == []
    with store.reading() as tx:
        assert tx.execute(select(uploads.c.id)).all() == []


def test_how_its_work_went_is_forgotten_some_time_after_a_run_s_end(scene: Scene) -> None:
    ended, store = _play(scene), scene.live.store
    goes_on = scene.submit()
    usual = {"round": 1, "phase": "train", "client": "alpha", "node_id": "n", "at": 1.0, "points": [], "lines": []}
    with store.transaction("test") as tx:
        for run in (ended, goes_on):
            tx.execute(insert(progress).values(run_id=run, cpu=0.0, memory=0, size=10, **usual))
    for days, kept in ((PROGRESS_DAYS - 1, {ended, goes_on}), (PROGRESS_DAYS + 1, {goes_on})):
        collect(store, scene.live.artifacts, 3600.0, time.time() + days * DAY)
        with store.reading() as tx:
            assert set(tx.execute(select(progress.c.run_id)).scalars()) == kept


def test_parts_that_no_row_names_go(scene: Scene) -> None:
    artifacts = scene.live.artifacts
    file = artifacts.temporary()
    file.write_bytes(b"1234")
    artifacts.keep_part(file)
    assert collect(scene.live.store, artifacts, 60.0).parts == 0
    assert collect(scene.live.store, artifacts, 60.0, time.time() + 100).parts == 1


def test_needed_are_plan_models_and_state(scene: Scene) -> None:
    run = scene.submit()
    command = scene.command()
    with scene.live.store.reading() as tx:
        found = needed(tx)
        model = runs.list_models(tx, run).models[0]
    assert {command.plan_blob, command.parameters, model.blob} <= found
