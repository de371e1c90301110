"""What a hostile coordinator sends is refused: nothing runs that the owner did not approve, and room is bounded."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import foedus.node.agent
import foedus.node.vault
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import IntegrityError
from foedus.domain.plan import BUNDLE_LIMIT
from foedus.node.frames import Failed, parse
from foedus.node.owner import init, list_plans
from foedus.node.session import Session
from foedus.node.vault import PlanEntry, Vault
from foedus.wire.messages import Assignment, PlanOffer, Welcome, Work
from tests.unit.client.peer import Answer, Peer, serving
from tests.unit.node.support import PLAN, Desk, assignment, bundle_of, children, truth
from tests.unit.node.test_agent import IDLE, Node, living, said, until, with_model

HOSTILE = "\x1b[2J"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with serving(Peer()) as peer, living(tmp_path, peer) as running:
        until(running.greetings)
        yield running
    assert running.error == []


def offer(node: Node, content: bytes, digest: str) -> PlanOffer:
    blob = hashlib.sha256(content).hexdigest()
    node.peer.blobs[blob] = content
    return PlanOffer(run="r_1", digest=digest, blob=blob, name="study", author="ada")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../../x"},
        {"id": "a_1/../../vault.db"},
        {"run": "r_1\n"},
        {"client": "../c0000"},
        {"phase": HOSTILE},
        {"phase": "t" * 10_000},
        {"strategy": "fedavg\x00"},
        {"plan": "../plans/x"},
        {"state": "../../key"},
        {"broadcast": {"../model": "1" * 64}},
        {"broadcast": {"model": "../../key"}},
        {"broadcast": {f"part{number}": "1" * 64 for number in range(33)}},
        {"lease": float("nan")},
        {"lease": -1.0},
        {"test_ratio": 1.5},
        {"validation_ratio": 1.0},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_an_assignment_with_a_path_or_nonsense_in_it_is_no_message(change: dict[str, Any]) -> None:
    fields = {**assignment(bundle_of()).model_dump(mode="json"), **change}
    with pytest.raises(ValidationError):
        Assignment.model_validate_json(json.dumps(fields))


def test_a_poll_s_answer_is_bounded() -> None:
    one = assignment(bundle_of()).model_dump(mode="json")
    for field, many in {"assignments": [one] * 101, "ended": [f"r_{number}" for number in range(1001)]}.items():
        with pytest.raises(ValidationError):
            Work.model_validate_json(json.dumps({field: many}))


def test_a_broadcast_that_is_no_model_is_a_failed_ask(node: Node) -> None:
    node.know(bundle_of())
    contents = [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(50), b"<html>", bytes(16)]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    node.peer.blobs |= dict(zip(digests, contents, strict=True))
    asks = [assignment(bundle_of(), id=f"a_{at}", broadcast={"model": digest}) for at, digest in enumerate(digests)]
    node.give(*asks)
    answers = [node.answer(ask.id) for ask in asks]
    assert {(answer["verb"], answer["code"]) for answer in answers} == {("fail", "model_refused")}


def test_a_blob_with_other_bytes_than_its_digest_is_a_failed_ask_and_is_not_kept(node: Node) -> None:
    node.peer.blobs["1" * 64] = encode_tensors(truth().model)
    node.know(bundle_of())
    node.give(assignment(bundle_of(), broadcast={"model": "1" * 64}))
    answer = node.answer()
    assert (answer["verb"], answer["code"]) == ("fail", "blob_corrupt")
    assert list((node.home / "cache").iterdir()) == []
    assert children() == []


def test_a_run_cannot_run_on_under_the_name_of_another_approved_plan(tmp_path: Path) -> None:
    approved, revoked = bundle_of(f"{PLAN}# other\n"), bundle_of()
    desk = Desk(tmp_path, revoked)
    session = Session(revoked, assignment(revoked))
    session.work(desk.order(truth().model), lambda: None)
    for change in ({"plan": approved.digest}, {"seed": 4}, {"options": {"local": {"lr": 9.0}}}):
        with pytest.raises(IntegrityError) as refusal:
            session.work(desk.order(truth().model, **change), lambda: None)
        assert refusal.value.code == "run_changed"


def test_a_plan_s_blob_over_the_limit_is_not_read_and_leaves_nothing(node: Node) -> None:
    made = offer(node, b" " * (2 * BUNDLE_LIMIT + 1), "5" * 64)
    node.peer.answers["POST /node/poll"] = [said(Work(plans=(made,))), IDLE]
    until(lambda: node.approvals() == {made.digest: "rejected"})
    assert list((node.home / "cache").iterdir()) == list((node.home / "plans").iterdir()) == []


def test_plans_that_nobody_decides_on_do_not_pile_up(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foedus.node.agent, "UNDECIDED", 3)
    bundles = [bundle_of(f"{PLAN}# {number}\n") for number in range(6)]
    offers = tuple(offer(node, bundle.to_bytes(), bundle.digest) for bundle in bundles)
    node.peer.answers["POST /node/poll"] = [said(Work(plans=offers)), IDLE]
    until(lambda: len(list_plans(node.home)) >= 3)
    before = len(node.peer.asked("POST", "/node/poll"))
    until(lambda: len(node.peer.asked("POST", "/node/poll")) >= before + 3)
    assert {plan.digest for plan in list_plans(node.home)} == {bundle.digest for bundle in bundles[:3]}
    assert len(list((node.home / "plans").iterdir())) == 3


def test_an_approval_is_told_however_many_plans_were_offered_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foedus.node.vault, "TOLD_LIMIT", 5)
    init(tmp_path, "clinic-a")
    with Vault(tmp_path) as vault:
        vault.record_plan(PlanEntry("a" * 64, "study", "ada", "approved", "", 1.0, 1.0))
        for number in range(5):
            vault.record_plan(PlanEntry(f"{number:064}", "study", "ada", "rejected", "", 2.0, None))
        _, told = vault.told()
    assert ("a" * 64, "approved") in {(plan.digest, plan.state) for plan in told}
    assert len(told) == 5


def test_a_coordinator_that_grants_no_wait_is_not_asked_without_rest(node: Node) -> None:
    node.peer.answers["POST /node/hello"] = said(Welcome(node="nd_1", wait=0.0))
    node.peer.answers["POST /node/poll"] = [Answer(503), IDLE]
    until(lambda: len(node.greetings()) >= 2)
    before = len(node.peer.asked("POST", "/node/poll"))
    assert not node.stop.wait(1.5)
    assert len(node.peer.asked("POST", "/node/poll")) - before <= 6


@pytest.mark.parametrize("reason", [HOSTILE, "a\nb", "\u202ea"])
def test_a_work_process_cannot_make_a_reason_that_a_terminal_obeys(reason: str) -> None:
    frame = json.dumps({"kind": "failed", "code": "plan_failed", "reason": reason})
    with pytest.raises(IntegrityError):
        parse(frame.encode())
    plain = frame.replace(json.dumps(reason), '"plain"')
    assert parse(plain.encode()) == Failed(code="plan_failed", reason="plain")


def test_assignments_for_what_was_not_approved_start_nothing_though_many_come(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        asks = [assignment(bundle_of(), id=f"a_{number}", broadcast=with_model(node)) for number in range(20)]
        node.give(*asks)
        answers = [node.answer(ask.id) for ask in asks]
    assert {(answer["verb"], answer["code"]) for answer in answers} == {("fail", "plan_not_registered")}
    assert children() == []
    assert node.peer.asked("GET") == []
