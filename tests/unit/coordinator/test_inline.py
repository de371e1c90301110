"""Small models and updates within messages: what a poll brings, what a contribution may bring, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from foedus.coordinator import assignments
from foedus.coordinator.blob_rows import Quota, owns
from foedus.coordinator.identities import NodeIdentity
from foedus.domain.codec import encode
from foedus.domain.tree import State
from foedus.store.tables import assignments as asked
from foedus.store.tables import blobs
from foedus.wire.messages import Assignment, Contribute, Work
from tests.unit.coordinator.scene import CLIENTS, Scene, contribution, refusal, until


def work_of(scene: Scene, client: str) -> Work:
    """The first work that a poll brings."""
    found: list[Work] = []
    until(lambda: bool(found.extend(work for work in (scene.poll(client),) if work is not None) or found))
    return found[0]


def inline(ask: Assignment, scene: Scene) -> Contribute:
    """A contribution with its update in it, which was not uploaded."""
    content = encode(State(contribution(ask.client, ask.round).update))
    message = Contribute(
        token=ask.token,
        update=hashlib.sha256(content).hexdigest(),
        content=content,
        weights=dict(contribution(ask.client, ask.round).weights),
        metrics={"loss": 1.0},
        state="0" * 64,
        seconds=0.5,
    )
    return Contribute.model_validate_json(message.model_dump_json())


def stored(scene: Scene) -> int:
    with scene.live.store.reading() as tx:
        return int(tx.execute(select(func.count()).select_from(blobs)).scalar_one())


def send(scene: Scene, ask: Assignment, message: Contribute) -> str:
    node = NodeIdentity(scene.node_of[ask.client].id, "")
    return assignments.contribute(scene.live, node, ask.id, message).outcome


def test_a_poll_brings_the_small_blobs_that_its_assignments_name(scene: Scene, run: str) -> None:
    work = Work.model_validate_json(work_of(scene, "alpha").model_dump_json())
    (ask,) = work.assignments
    assert ask.inline == scene.live.inline == 1 << 16
    assert set(work.blobs) == set(ask.broadcast.values())
    for digest, content in work.blobs.items():
        assert hashlib.sha256(content).hexdigest() == digest
        assert content == scene.live.artifacts.path(digest).read_bytes()


@pytest.mark.parametrize("room", [0, 1])
def test_a_blob_that_has_no_room_is_not_brought(room: int, scene: Scene, run: str) -> None:
    scene.live = replace(scene.live, inline=room)
    work = work_of(scene, "alpha")
    assert (work.blobs, work.assignments[0].inline) == ({}, room)


def test_a_blob_that_is_spoiled_is_left_out_and_the_assignment_told_all_the_same(scene: Scene, run: str) -> None:
    for digest in set(scene.take("alpha").broadcast.values()):
        path = scene.folder / "blobs" / digest[:2] / digest[2:]
        path.write_bytes(b"x" + path.read_bytes()[1:])
    work = work_of(scene, "beta")
    assert (work.blobs, len(work.assignments)) == ({}, 1)


def test_updates_within_contributions_end_with_the_same_model(scene: Scene, run: str) -> None:
    def step() -> bool:
        for client in CLIENTS:
            for ask in getattr(scene.poll(client), "assignments", ()):
                if ask.phase == "train":
                    assert send(scene, ask, inline(ask, scene)) == "counted"
                else:
                    assert scene.contribute(ask) == "counted"
        return scene.show(run).status == "completed"

    until(step)
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


def test_one_told_twice_is_counted_once_also_when_it_was_uploaded_meanwhile(scene: Scene, run: str) -> None:
    ask = scene.take("alpha")
    message, before = inline(ask, scene), stored(scene)
    assert [send(scene, ask, message) for _ in range(3)] == ["counted"] * 3
    assert send(scene, ask, message.model_copy(update={"content": None})) == "counted"
    assert stored(scene) == before + 1
    with scene.live.store.reading() as tx:
        node = scene.node_of["alpha"]
        assert owns(tx, message.update or "", node.actor)
        receipt = tx.execute(select(asked.c.receipt).where(asked.c.id == ask.id)).scalar_one()
    assert receipt["size"] == len(message.content or b"")


@pytest.mark.parametrize("fault", ["another name", "too large", "quota", "no name", "not a model"])
def test_what_is_refused_leaves_no_row(fault: str, scene: Scene, run: str) -> None:
    ask = scene.take("alpha")
    message, before = inline(ask, scene), stored(scene)
    if fault == "another name":
        message = message.model_copy(update={"update": "0" * 64})
    if fault == "too large":
        scene.live = replace(scene.live, inline=10)
    if fault == "quota":
        scene.live = replace(scene.live, quota=Quota(stored=10))
    if fault == "no name":
        message = message.model_copy(update={"update": None})
    if fault == "not a model":
        message = message.model_copy(update={"update": hashlib.sha256(b"x").hexdigest(), "content": b"x"})
    code = {
        "another name": "digest_mismatch",
        "too large": "blob_too_large",
        "quota": "quota_bytes",
        "no name": "update_missing",
        "not a model": "not_safetensors",
    }
    assert refusal(lambda: send(scene, ask, message)).code == code[fault]
    assert stored(scene) == before
