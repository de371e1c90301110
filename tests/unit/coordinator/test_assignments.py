"""Assignments: leases and their tokens, what is refused, and what is told twice."""

from __future__ import annotations

import math
import pickle
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Engine, event, select

from foedus.coordinator import assignments, polling, runs
from foedus.coordinator.bells import RUNS
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.supervisor import Supervisor
from foedus.domain.codec import encode
from foedus.domain.tree import State
from foedus.store.tables import client_states, phases
from foedus.wire.messages import Contribute, Fail, Poll, Renew, Work
from tests.unit.coordinator.scene import BOOT, CLIENTS, PLAN, Scene, contribution, refusal, until

POLL = Poll(boot=BOOT)


def failures(scene: Scene, run: str) -> dict[str, str]:
    """The reasons in the first phase's record."""
    with scene.live.store.reading() as tx:
        receipts = runs.list_rounds(tx, run).rounds[0].phases[0].receipts
    return {receipt.client: receipt.failure.partition(":")[0] for receipt in receipts}


def test_an_assignment_says_all_that_a_node_needs(scene: Scene, run: str) -> None:
    found = scene.take("alpha")
    assert (found.run, found.round, found.phase, found.attempt, found.client) == (run, 1, "train", 0, "alpha")
    assert (found.token, found.lease, found.seed, found.strategy, found.test_ratio) == (1, 60.0, 1, "fedavg", 0.2)
    assert found.options["local"] == {"lr": 0.1, "epochs": 1, "batch_size": 10}
    assert found.broadcast == {"model": scene.command().parameters}
    assert found.plan == PLAN.digest
    assert scene.live.artifacts.path(found.plan_blob).read_bytes() == PLAN.to_bytes()


def test_a_lease_is_told_once_while_it_lasts(scene: Scene, run: str) -> None:
    scene.take("alpha")
    assert scene.poll("alpha") is None


def test_a_lease_whose_telling_was_lost_with_the_process_is_told_again(scene: Scene, run: str) -> None:
    first = scene.take("alpha")
    scene.told.clear()
    assert scene.take("alpha") == first


def test_an_expired_lease_is_taken_again_with_a_higher_token(tmp_path: Path) -> None:
    scene = Scene(tmp_path, size=1, lease=0.05)
    scene.enrol("alpha")
    supervisor = Supervisor(scene.live)
    supervisor.start()
    scene.submit()
    scene.live.bells.ring(RUNS)
    first = scene.take("alpha")
    second = scene.take("alpha")
    supervisor.stop()
    assert (first.id, first.token, second.token) == (second.id, 1, 2)
    assert refusal(lambda: scene.contribute(first)).code == "lease_lost"
    assert scene.contribute(second) == "counted"


def test_a_lease_lasts_longer_when_it_is_renewed(scene: Scene, run: str) -> None:
    found, node = scene.take("alpha"), scene.node_of["alpha"]
    assert assignments.renew(scene.live, node, found.id, Renew(token=found.token)).lease == 60.0
    assert refusal(lambda: assignments.renew(scene.live, node, found.id, Renew(token=9))).code == "lease_lost"


def test_a_node_that_began_anew_gets_its_work_again_and_its_old_process_nothing(scene: Scene, run: str) -> None:
    old = scene.take("alpha")
    scene.hello("alpha", boot="boot-0002")
    new = scene.take("alpha", boot="boot-0002")
    assert (new.id, new.token) == (old.id, old.token + 1)
    assert refusal(lambda: scene.contribute(old)).code == "lease_lost"
    assert scene.contribute(new) == "counted"
    begin = refusal(lambda: polling.begin(scene.live, scene.node_of["alpha"], BOOT))
    assert begin.code == "hello_needed"


def test_another_nodes_assignment_does_not_exist(scene: Scene, run: str) -> None:
    found, thief = scene.take("alpha"), scene.node_of["beta"]
    for action in (
        lambda: assignments.contribute(scene.live, thief, found.id, scene.message(found)),
        lambda: assignments.fail(scene.live, thief, found.id, Fail(token=1, code="x", reason="")),
        lambda: assignments.renew(scene.live, thief, found.id, Renew(token=1)),
        lambda: assignments.renew(scene.live, NodeIdentity("nd_nobody", "nobody"), "as_1", Renew(token=1)),
    ):
        error = refusal(action)
        assert (error.code, error.http_status) == ("assignment_unknown", 404)


def test_the_same_contribution_again_gets_the_same_reply_and_counts_once(scene: Scene, run: str) -> None:
    found = scene.take("alpha")
    assert scene.contribute(found) == "counted"
    assert scene.contribute(found, seconds=9.0) == "counted"
    for client in ("beta", "gamma"):
        scene.contribute(scene.take(client))
    assert scene.contribute(found) == "counted"
    scene.play(run, CLIENTS)
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


def test_a_rounds_record_names_the_loading_plan_that_data_were_read_by(scene: Scene, run: str) -> None:
    named = f"ward-7:{'a' * 64}"
    scene.contribute(scene.take("alpha"), loading=named)
    scene.play(run, CLIENTS)
    with scene.live.store.reading() as tx:
        (phase, *_) = runs.list_rounds(tx, run).rounds[0].phases
    assert {receipt.client: receipt.loading for receipt in phase.receipts} == {"alpha": named, "beta": "", "gamma": ""}


@pytest.mark.parametrize("named", ["ward-7", f"../ward:{'a' * 64}", f"ward-7:{'a' * 63}", f"ward-7:{'a' * 64}\n"])
def test_what_names_no_loading_plan_does_not_even_parse(named: str) -> None:
    with pytest.raises(ValueError, match="loading"):
        Contribute(token=1, update=None, weights={}, metrics={}, state=None, seconds=1.0, loading=named)


def test_another_contribution_for_what_was_answered_is_refused(scene: Scene, run: str) -> None:
    found = scene.take("alpha")
    scene.contribute(found)
    error = refusal(lambda: scene.contribute(found, weights={"examples": 99.0}))
    assert (error.code, error.http_status) == ("already_answered", 409)


def test_a_failure_told_twice_is_recorded_once(scene: Scene, run: str) -> None:
    found = scene.take("alpha")
    assert [scene.fail(found), scene.fail(found)] == ["failed", "failed"]


def test_a_contribution_whose_blob_is_not_there_may_be_sent_again(scene: Scene, run: str) -> None:
    found = scene.take("alpha")
    error = refusal(lambda: scene.contribute(found, update="0" * 64))
    assert (error.code, error.http_status) == ("blob_missing", 409)
    assert scene.contribute(found) == "counted"


def poisoned(scene: Scene, change: str) -> str:
    parts = {part: dict(tensors) for part, tensors in contribution("alpha", 1).update.items()}
    if change == "missing":
        del parts["parameters"]["w"]
    elif change == "extra":
        parts["parameters"]["x"] = torch.ones(1)
    elif change == "shape":
        parts["parameters"]["w"] = parts["parameters"]["w"].T.contiguous()
    elif change == "dtype":
        parts["parameters"]["w"] = parts["parameters"]["w"].double()
    elif change == "NaN":
        parts["parameters"]["w"][0, 0] = math.nan
    content = pickle.dumps(parts) if change == "pickle" else encode(State(parts))
    return scene.live.artifacts.put_bytes(content)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("missing", "tensor_missing"),
        ("extra", "tensor_extra"),
        ("shape", "tensor_shape"),
        ("dtype", "tensor_dtype"),
        ("NaN", "update_not_finite"),
        ("pickle", "not_safetensors"),
    ],
)
def test_a_bad_update_is_refused_and_is_its_clients_failure(scene: Scene, run: str, change: str, code: str) -> None:
    found = scene.take("alpha")
    update = poisoned(scene, change)
    error = refusal(lambda: scene.contribute(found, update=update))
    assert (error.code, error.http_status) == (code, 422)
    assert scene.contribute(found, update=update) == "failed"
    scene.play(run, CLIENTS)
    assert failures(scene, run) == {"alpha": code, "beta": "", "gamma": ""}
    assert scene.show(run).status == "completed"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"weights": {"examples": 0.0}}, "weight_refused"),
        ({"weights": {"examples": -3.0}}, "weight_refused"),
        ({"weights": {"examples": 1e11}}, "weight_refused"),
        ({"weights": {}}, "weight_refused"),
        ({"weights": {"examples": 1.0, "other": 1.0}}, "weight_refused"),
        ({"metrics": {"loss": 0.1, "secret": 1.0}}, "metric_refused"),
        ({"update": None}, "update_missing"),
    ],
    ids=str,
)
def test_bad_weights_and_metrics_are_refused_and_the_run_goes_on(
    scene: Scene, run: str, changes: dict[str, Any], code: str
) -> None:
    found = scene.take("alpha")
    error = refusal(lambda: scene.contribute(found, **changes))
    assert (error.code, error.http_status) == (code, 422)
    scene.play(run, CLIENTS)
    assert failures(scene, run)["alpha"] == code


def test_a_test_phase_takes_no_update(scene: Scene, run: str) -> None:
    for client in CLIENTS:
        scene.contribute(scene.take(client))
    found = scene.take("alpha")
    update = scene.live.artifacts.put_bytes(b"anything")
    assert found.phase == "test"
    assert refusal(lambda: scene.contribute(found, update=update)).code == "update_unexpected"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_do_not_even_parse(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Contribute(token=1, update=None, weights={"examples": value}, metrics={}, state=None, seconds=1.0)


def test_a_stale_bad_contribution_fails_nobody(scene: Scene, run: str) -> None:
    old = scene.take("alpha")
    scene.hello("alpha", boot="boot-0002")
    new = scene.take("alpha", boot="boot-0002")
    assert refusal(lambda: scene.contribute(old, weights={"examples": 0.0})).code == "lease_lost"
    assert scene.contribute(new) == "counted"


def test_a_plan_is_offered_until_the_node_tells_a_decision(tmp_path: Path) -> None:
    scene = Scene(tmp_path, size=1)
    scene.enrol("alpha", tags=("digits", "site"))
    scene.enrol("other", tags=("faces",))
    for client, tags in (("alpha", ("digits", "site")), ("other", ("faces",))):
        scene.hello(client, state=None, tags=tags)
    assert scene.poll("alpha") is None
    run = scene.submit()
    work = scene.poll("alpha")
    assert work is not None
    assert [(offer.run, offer.digest, offer.author) for offer in work.plans] == [(run, PLAN.digest, "ada")]
    assert scene.poll("other") is None
    scene.hello("alpha", state="pending", tags=("digits", "site"))
    assert scene.poll("alpha") is None


def test_a_node_hears_once_at_once_and_then_in_passing_that_a_run_has_ended(scene: Scene, run: str) -> None:
    before = time.time()
    scene.play(run, CLIENTS)
    node = scene.node_of["alpha"]
    heard = polling.look(scene.live, node, POLL, before)
    assert heard is not None
    assert heard.ended == (run,)
    assert polling.look(scene.live, node, POLL, time.time() + 1) is None
    assert polling.nothing(scene.live, node, POLL).ended == (run,)


def test_a_poll_that_waits_in_vain_asks_the_database_four_statements(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    node, asked = scene.enrol("alpha"), list[str]()
    polling.begin(scene.live, node, BOOT)
    polling.nothing(scene.live, node, POLL)

    def poll() -> Work:
        polling.begin(scene.live, node, BOOT)
        assert polling.look(scene.live, node, POLL, time.time()) is None
        return polling.nothing(scene.live, node, POLL)

    listener = partial(_note, asked)
    event.listen(Engine, "before_cursor_execute", listener)
    try:
        assert poll().then == "poll"
    finally:
        event.remove(Engine, "before_cursor_execute", listener)
    assert len(asked) == 4, asked


def _note(asked: list[str], _connection: object, _cursor: object, statement: str, *_: object) -> None:
    asked.append(statement)


def test_every_client_of_a_running_run_is_shown(scene: Scene, run: str) -> None:
    until(lambda: scene.show(run).status == "running")
    assert {status.client for status in scene.show(run).clients} == set(CLIENTS)


def test_a_poll_that_outlived_its_process_takes_nothing(scene: Scene, run: str) -> None:
    """A killed node's connection may still be open: work that goes there would wait for the lease to expire."""
    until(lambda: scene.show(run).status == "running")
    scene.hello("alpha", boot="another-boot")
    stale = refusal(lambda: scene.poll("alpha"))
    assert (stale.code, stale.http_status) == ("hello_needed", 409)
    assert scene.take("alpha", "another-boot").client == "alpha"


def test_nobody_waits_for_a_node_that_was_revoked(scene: Scene, run: str) -> None:
    until(lambda: scene.show(run).status == "running")
    assignment = scene.take("alpha")
    with scene.live.store.transaction("revoke") as tx:
        assignments.withdraw(tx, scene.node_of["alpha"].id, "node_revoked: its node was revoked")
    assert refusal(lambda: scene.contribute(assignment)).code == "already_answered"
    for client in CLIENTS[1:]:
        scene.contribute(scene.take(client))

    def record() -> dict[str, Any] | None:
        with scene.live.store.reading() as tx:
            return tx.execute(select(phases.c.record).where(phases.c.phase == "train")).scalars().first()

    until(lambda: record() is not None)
    told = {receipt["client"]: receipt["failure"] for receipt in (record() or {})["receipts"]}
    assert told == {"alpha": "node_revoked: its node was revoked", "beta": "", "gamma": ""}


def test_case_28_a_client_whose_node_lacks_its_state_begins_without_one(scene: Scene, run: str) -> None:
    """Case 28: a node that is ahead of a restored coordinator says so, and is told to begin without a state.

    The newer state goes from the node as soon as a state that was written after it counts: see its own tests.
    """
    for _ in ("train", "test"):
        for client in CLIENTS:
            scene.contribute(scene.take(client))
    found = scene.take("alpha")
    assert (found.round, found.state) == (2, f"{1:064x}")
    failed = Fail(token=found.token, code="client_state_missing", reason="gone")
    assignments.fail(scene.live, scene.node_of["alpha"], found.id, failed)
    with scene.live.store.reading() as tx:
        kept = tx.execute(select(client_states.c.client).where(client_states.c.run_id == run)).scalars().all()
    assert sorted(kept) == ["beta", "gamma"]
