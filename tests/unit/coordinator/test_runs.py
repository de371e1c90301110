"""Submitting runs, and what they say of themselves: who waits for whom, which moves are legal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Connection

from foedus.coordinator import nodes as greeting
from foedus.coordinator import runs, steering, submitting
from foedus.coordinator.bells import RUNS
from foedus.coordinator.events import news
from foedus.coordinator.supervisor import Supervisor
from foedus.domain.codec import encode_tensors
from foedus.store.tables import nodes
from foedus.wire.messages import DatasetView, Hello, PlanApproval, TensorView
from foedus.wire.plan_signature import SIGNERS, PlanSignature, sign_plan
from tests.unit.coordinator.scene import ADA, BOOT, PLAN, Scene, initial_model, refusal, spec, until

Move = Callable[[Connection, str], None]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, size=2)
    yield made
    made.live.bells.close()
    made.live.store.close()


def prepared(scene: Scene, **changes: Any) -> object:
    return submitting.prepare(scene.live.artifacts, scene.command(**changes))


def blob(scene: Scene, content: bytes) -> str:
    return scene.live.artifacts.put_bytes(content)


def test_a_submitted_run_waits_and_says_for_whom(scene: Scene) -> None:
    run = scene.submit()
    view = scene.show(run)
    assert (view.status, view.round, view.rounds, view.strategy) == ("waiting", 0, 2, "fedavg")
    assert view.waiting_for == "2 more datasets tagged digits have to join"
    scene.enrol("clinic-a")
    scene.hello("clinic-a", state="pending")
    scene.enrol("other", tags=("faces",))
    view = scene.show(run)
    mark = PLAN.digest[:12]
    assert view.waiting_for == (
        f"clinic-a: the owner of node-clinic-a has not approved plan {mark}; 1 more dataset tagged digits has to join"
    )
    (client,) = view.clients
    assert (client.client, client.status, client.approval) == ("clinic-a", "waiting_for_approval", "pending")


def test_each_client_has_its_status(scene: Scene) -> None:
    run = scene.submit()
    for client, state in (("a", "approved"), ("b", "rejected"), ("c", None), ("d", "approved")):
        scene.enrol(client)
        scene.hello(client, state=state)
    with scene.live.store.transaction("test") as tx:
        tx.execute(nodes.update().where(nodes.c.id == "nd_d").values(last_seen=time.time() - 1000))
    statuses = {client.client: client.status for client in scene.show(run).clients}
    assert statuses == {"a": "ready", "b": "rejected", "c": "waiting_for_approval", "d": "away"}
    assert scene.show(run).waiting_for == ""


def test_a_run_begins_once_enough_owners_have_approved(scene: Scene) -> None:
    supervisor = Supervisor(scene.live)
    supervisor.start()
    run = scene.submit()
    scene.live.bells.ring(RUNS)
    scene.enrol("a")
    assert scene.show(run).status == "waiting"
    scene.enrol("b")
    until(lambda: scene.show(run).status == "running")
    scene.take("a")
    until(lambda: scene.show(run).phase == "train")
    assert {client.client: client.status for client in scene.show(run).clients} == {"a": "working", "b": "ready"}
    supervisor.stop()


def test_a_revoked_node_is_in_no_run(scene: Scene) -> None:
    run = scene.submit()
    scene.enrol("a")
    with scene.live.store.transaction("revoke") as tx:
        tx.execute(nodes.update().values(status="revoked"))
    assert scene.show(run).clients == ()


def test_the_initial_model_is_the_model_of_round_0(scene: Scene) -> None:
    run = scene.submit()
    with scene.live.store.reading() as tx:
        (model,) = runs.list_models(tx, run).models
    assert (model.round, model.blob) == (0, scene.command().parameters)
    assert model.model_digest == scene.show(run).model_digest


def test_runs_are_listed_newest_first(scene: Scene) -> None:
    first, second = scene.submit(), scene.submit()
    with scene.live.store.reading() as tx:
        assert [view.id for view in runs.list_runs(tx, ADA).runs] == [second, first]


def test_a_spec_that_is_wrong_is_refused_before_anything_is_recorded(scene: Scene) -> None:
    assert refusal(lambda: prepared(scene, spec={**spec(2, 2), "rouns": 3})).code == "config_refused"
    unknown = {**spec(2, 2), "strategy": {"name": "fedavgg"}}
    assert refusal(lambda: prepared(scene, spec=unknown)).code == "strategy_unknown"


def test_a_plan_must_be_the_bytes_of_its_digest(scene: Scene) -> None:
    assert refusal(lambda: prepared(scene, plan="0" * 64)).code == "plan_digest"
    assert refusal(lambda: prepared(scene, plan_blob=blob(scene, b"import os"))).code == "plan_malformed"
    assert refusal(lambda: prepared(scene, plan_blob="0" * 64)).code == "blob_unknown"


def test_an_author_s_signature_goes_on_to_the_nodes_and_a_wrong_one_is_refused(scene: Scene) -> None:
    signed = sign_plan(bytes(range(32)), PLAN.digest)
    wrong = sign_plan(bytes(range(32)), "0" * 64)
    assert refusal(lambda: prepared(scene, signed=wrong)).code == "proof_refused"
    with scene.live.store.transaction("submit") as tx:
        submitting.submit(tx, submitting.prepare(scene.live.artifacts, scene.command(signed=signed)), ADA)
    scene.submit()
    scene.enrol("clinic-a")
    scene.hello("clinic-a", state=None)
    work = scene.poll("clinic-a")
    assert work is not None
    assert [offer.signed for offer in work.plans] == [signed], "also where a later run came without one"


def test_a_signature_that_was_made_later_is_offered_to_those_that_lack_it_and_to_no_others(scene: Scene) -> None:
    first, second = (sign_plan(bytes([key]) * 32, PLAN.digest) for key in (1, 2))

    def signed(by: PlanSignature, **asked: object) -> None:
        with scene.live.store.transaction("submit") as tx:
            submitting.submit(tx, submitting.prepare(scene.live.artifacts, scene.command(signed=by, **asked)), ADA)

    def told(state: str, signers: tuple[str, ...] | None) -> list[PlanSignature | None]:
        command = Hello(
            boot=BOOT,
            version="0",
            datasets=(DatasetView(client="clinic-a", tags=("digits",), examples=20),),
            approvals=(PlanApproval(digest=PLAN.digest, state=state, signers=signers),),
        )
        with scene.live.store.transaction("hello") as tx:
            greeting.hello(tx, scene.node_of["clinic-a"], command)
        work = scene.poll("clinic-a")
        return [] if work is None else [offer.signed for offer in work.plans]

    scene.enrol("clinic-a")
    scene.submit()
    assert told("pending", ()) == []
    signed(first, draft=True)
    assert told("pending", ()) == [first], "of the run that waits, though a draft brought it"
    assert told("pending", (first.signer,)) == []
    signed(second)
    assert told("pending", (first.signer,)) == [second], "the newest"
    assert told("pending", (first.signer, second.signer)) == []
    assert told("pending", tuple(f"{at:044}" for at in range(SIGNERS))) == [], "a node keeps so many"
    assert told("pending", None) == [], "a node of before"
    for decided in ("approved", "rejected"):
        assert told(decided, None) == []


@pytest.mark.parametrize(
    ("name", "tensor", "code"),
    [
        ("w", None, "tensor_missing"),
        ("more", torch.ones(1), "tensor_extra"),
        ("w", torch.ones(2), "tensor_shape"),
        ("b", torch.ones(3, dtype=torch.float64), "tensor_dtype"),
        ("b", torch.tensor([1.0, float("nan"), 1.0]), "update_not_finite"),
    ],
)
def test_an_initial_model_must_be_what_its_manifest_says(
    scene: Scene, name: str, tensor: torch.Tensor | None, code: str
) -> None:
    model = {other: value for other, value in initial_model().items() if other != name}
    model |= {} if tensor is None else {name: tensor}
    assert refusal(lambda: prepared(scene, parameters=blob(scene, encode_tensors(model)))).code == code


@pytest.mark.parametrize("change", [{"name": "../w"}, {"dtype": "F8"}], ids=str)
def test_a_manifest_with_strange_tensors_is_refused(scene: Scene, change: dict[str, str]) -> None:
    row = TensorView(**{"name": "w", "shape": (1,), "dtype": "F32", "kind": "parameter", "module": "", **change})
    manifest = scene.command().manifest.model_copy(update={"tensors": (row,)})
    assert refusal(lambda: prepared(scene, manifest=manifest)).code == "manifest_refused"


def retry(scene: Scene) -> Move:
    """The move that tries a failed run again."""
    return lambda tx, run: steering.retry(tx, scene.live.artifacts, run)


def steer(scene: Scene, move: Move, run: str) -> str:
    """Make a move; returns where the run is then."""
    with scene.live.store.transaction("steer") as tx:
        move(tx, run)
    return scene.show(run).status


def test_only_legal_moves_are_made_and_each_is_told_once(scene: Scene) -> None:
    run = scene.submit()
    assert refusal(lambda: steer(scene, steering.start, run)).code == "run_started"
    for move, there in ((steering.pause, "paused"), (steering.resume, "waiting"), (steering.cancel, "cancelled")):
        assert steer(scene, move, run) == steer(scene, move, run) == there
    for again in (steering.pause, steering.resume, retry(scene)):
        assert refusal(lambda again=again: steer(scene, again, run)).code == "run_state"  # type: ignore[misc]
    told = [event.kind for event in news(scene.live, run, 0).events]
    assert told == ["run_waiting", "run_paused", "run_resumed", "run_cancelled"]


def test_a_completed_run_is_neither_cancelled_nor_resumed(scene: Scene) -> None:
    supervisor = Supervisor(scene.live)
    supervisor.start()
    for client in ("a", "b"):
        scene.enrol(client)
    run = scene.submit()
    scene.live.bells.ring(RUNS)
    scene.play(run, ("a", "b"))
    supervisor.stop()
    for move in (steering.cancel, steering.pause, steering.resume, retry(scene)):
        assert refusal(lambda move=move: steer(scene, move, run)).code == "run_state"  # type: ignore[misc]


def test_a_run_that_is_not_there_is_not_found(scene: Scene) -> None:
    assert refusal(lambda: scene.show("run_0")).code == "run_unknown"
