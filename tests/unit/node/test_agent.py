"""The agent, whole, against a coordinator that says what each test wants."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from foedus.data.files import write_columns
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConflictError, FoedusError, ForbiddenError, RoundClosedError, UsageError
from foedus.domain.plan import PlanBundle
from foedus.node import agent
from foedus.node.datasets import add_dataset
from foedus.node.owner import approve, init, list_plans, reject, trust_author
from foedus.node.service import run_agent
from foedus.node.session import Session
from foedus.node.settings import NodeSettings
from foedus.node.vault import PlanEntry, Vault
from foedus.wire.messages import Accepted, Assignment, DatasetRefused, PlanOffer, Renewed, Welcome, Work
from foedus.wire.plan_signature import PlanSignature, sign_plan
from foedus.wire.public_keys import public_key
from tests.holding import opt_out
from tests.unit.client.peer import Answer, Peer, Request, problem, serving
from tests.unit.node.support import PLAN, Desk, assignment, bundle_of, children, columns, truth

SETTINGS = NodeSettings(poll_wait=0.2, idle_limit=60.0)
IDLE = Answer(200, Work().model_dump_json().encode())


def said(message: Any) -> Answer:
    return Answer(200, message.model_dump_json().encode())


def until(look: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


@dataclass
class Node:
    """A running node and its coordinator. ``give`` leases assignments; ``answer`` is what the node says to one."""

    home: Path
    peer: Peer
    error: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def live(self) -> None:
        try:
            run_agent(self.home, self.stop, SETTINGS)
        except BaseException as error:
            self.error.append(error)

    def know(self, bundle: PlanBundle, state: str = "approved") -> None:
        with Vault(self.home) as vault:
            vault.bundle_path(bundle.digest).write_bytes(bundle.to_bytes())
            vault.record_plan(PlanEntry(bundle.digest, "study", "ada", state, "", 1.0, None))

    def give(self, *given: Assignment, **more: Any) -> None:
        for ask in given:
            path = f"/node/assignments/{ask.id}"
            usual = {
                "contribute": Accepted(assignment=ask.id, outcome="counted"),
                "fail": Accepted(assignment=ask.id, outcome="failed"),
                "renew": Renewed(lease=ask.lease),
            }
            for verb, reply in usual.items():
                self.peer.answers.setdefault(f"POST {path}/{verb}", said(reply))
        self.peer.answers["POST /node/poll"] = [said(Work(assignments=given, **more)), IDLE]

    def answers(self, identity: str) -> list[Request]:
        path = f"/node/assignments/{identity}"
        return [r for r in self.peer.asked("POST", path) if not r.path.endswith("/renew")]

    def answer(self, identity: str = "a_1") -> dict[str, Any]:
        (request, *_) = until(lambda: self.answers(identity))
        return {"verb": request.path.rpartition("/")[2], **request.json()}

    def greetings(self) -> list[dict[str, Any]]:
        return [request.json() for request in self.peer.asked("POST", "/node/hello")]

    def approvals(self) -> dict[str, str]:
        return {plan["digest"]: plan["state"] for plan in self.greetings()[-1]["approvals"]}


@contextmanager
def living(folder: Path, peer: Peer) -> Iterator[Node]:
    home = folder / "home"
    init(home, "clinic-a")
    opt_out(home)
    write_columns(folder / "data.npz", columns())
    add_dataset(home, folder / "data.npz", "c0000", ["digits"])
    with Vault(home) as vault:
        vault.joined("nd_1", peer.url)
    peer.answers |= {"POST /node/hello": said(Welcome(node="nd_1", wait=5.0)), "POST /node/poll": IDLE}
    node = Node(home, peer)
    thread = threading.Thread(target=node.live)
    thread.start()
    try:
        yield node
    finally:
        node.stop.set()
        thread.join(120)
        assert not thread.is_alive()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with serving(Peer()) as peer, living(tmp_path, peer) as running:
        until(running.greetings)
        yield running
    assert running.error == []


def offered(node: Node, bundle: PlanBundle, digest: str = "", signed: PlanSignature | None = None) -> str:
    content = bundle.to_bytes()
    blob = hashlib.sha256(content).hexdigest()
    node.peer.blobs[blob] = content
    offer = PlanOffer(run="r_1", digest=digest or bundle.digest, blob=blob, name="study", author="ada", signed=signed)
    node.peer.answers["POST /node/poll"] = [said(Work(plans=(offer,))), IDLE]
    return offer.digest


def with_model(node: Node) -> dict[str, str]:
    content = encode_tensors(truth().model)
    digest = hashlib.sha256(content).hexdigest()
    node.peer.blobs[digest] = content
    return {"model": digest}


def test_the_owner_s_decisions_reach_the_coordinator(node: Node) -> None:
    digest = offered(node, bundle_of())
    until(lambda: node.approvals() == {digest: "pending"})
    approve(node.home, digest[:8])
    until(lambda: node.approvals() == {digest: "approved"})
    reject(node.home, digest)
    until(lambda: node.approvals() == {digest: "rejected"})
    assert [plan.name for plan in list_plans(node.home)] == ["study"]
    first = node.greetings()[0]
    usual = {"batch_size": None, "speed": None}
    assert first["datasets"] == [{"client": "c0000", "tags": ["digits"], "examples": 25, **usual}]
    assert {greeting["boot"] for greeting in node.greetings()} == {first["boot"]}


def test_a_signature_that_comes_with_a_later_offer_decides_and_what_is_there_is_told(node: Node) -> None:
    bundle, ada, eve = bundle_of(), bytes(range(32)), bytes([7]) * 32

    def signers() -> list[list[str] | None]:
        return [plan["signers"] for plan in node.greetings()[-1]["approvals"]]

    trust_author(node.home, "ada", public_key(ada))
    digest = offered(node, bundle)
    until(lambda: node.approvals() == {digest: "pending"})
    assert signers() == [[]]
    offered(node, bundle, signed=sign_plan(eve, digest))
    until(lambda: signers() == [[public_key(eve)]])
    forged = sign_plan(ada, "0" * 64)
    offered(node, bundle, signed=forged)
    greeted = len(node.greetings())
    until(lambda: len(node.greetings()) > greeted)
    assert (node.approvals(), signers()) == ({digest: "pending"}, [[public_key(eve)]])
    offered(node, bundle, signed=sign_plan(ada, digest))
    until(lambda: node.approvals() == {digest: "approved"})
    assert signers() == [None]
    with Vault(node.home) as vault:
        assert vault.audit()[-1].detail == "by signature: signed by ada"


def test_files_that_are_not_the_plan_of_the_digest_are_rejected(node: Node) -> None:
    digest = offered(node, bundle_of(), "0" * 64)
    until(lambda: node.approvals() == {digest: "rejected"})
    assert list_plans(node.home)[0].note == "The files offered are not those of this digest."
    with pytest.raises(FoedusError):
        approve(node.home, digest)


def test_a_policy_that_is_changed_while_the_node_runs_decides_on_the_plans_that_wait(node: Node) -> None:
    digest = offered(node, bundle_of())
    until(lambda: node.approvals() == {digest: "pending"})
    usual = (node.home / "policy.toml").read_text() if (node.home / "policy.toml").is_file() else ""
    (node.home / "policy.toml").write_text(usual + '[approval]\nautomatic = "all"\n')
    until(lambda: node.approvals() == {digest: "approved"})
    (node.home / "policy.toml").write_text("nonsense")
    (node.home / "policy.toml").write_text(usual)
    until(lambda: node.approvals() == {digest: "pending"})


def test_an_approved_plan_works_and_its_state_goes_on(node: Node, tmp_path: Path) -> None:
    bundle, desk = bundle_of(), Desk(tmp_path / "desk")
    node.know(bundle)
    down, session = with_model(node), Session(bundle, assignment(bundle))
    node.give(assignment(bundle, broadcast=down))
    first = node.answer()
    desk.keep(session.work(desk.order(truth().model), lambda: None))
    update = (desk.folder / "update").read_bytes()
    assert (first["verb"], first["token"], first["weights"]) == ("contribute", 1, {"examples": 20.0})
    assert node.peer.blobs[first["update"]] == update
    assert first["state"] == hashlib.sha256((desk.folder / "state").read_bytes()).hexdigest()
    node.give(assignment(bundle, id="a_2", token=7, round=2, broadcast=down, state=first["state"]))
    second = node.answer("a_2")
    order = desk.order(truth().model, (desk.folder / "state").rename(desk.folder / "s"), round=2)
    desk.keep(session.work(order, lambda: None))
    assert second["token"] == 7
    assert node.peer.blobs[second["update"]] == (desk.folder / "update").read_bytes() != update
    with Vault(node.home) as vault:
        until(lambda: [line.event for line in vault.audit()].count("round_ended") == 2)
    assert len(children()) == 1
    node.peer.answers["POST /node/poll"] = said(Work(ended=("r_1",)))
    until(lambda: children() == [])


def test_a_small_update_goes_with_the_message_and_a_larger_one_is_uploaded(node: Node, tmp_path: Path) -> None:
    bundle, desk = bundle_of(), Desk(tmp_path / "desk")
    node.know(bundle)
    desk.keep(Session(bundle, assignment(bundle)).work(desk.order(truth().model), lambda: None))
    update = (desk.folder / "update").read_bytes()
    digest, down = hashlib.sha256(update).hexdigest(), with_model(node)
    node.give(assignment(bundle, broadcast=down, inline=len(update)))
    first = node.answer()
    assert (first["update"], urlsafe_b64decode(first["content"])) == (digest, update)
    assert digest not in node.peer.blobs
    node.give(assignment(bundle, id="a_2", token=7, broadcast=down, inline=len(update) - 1))
    second = node.answer("a_2")
    assert (second["update"], second.get("content")) == (digest, None)
    assert node.peer.blobs[digest] == update


@pytest.mark.parametrize(
    ("state", "changed", "code"),
    [
        ("pending", {}, "plan_not_approved"),
        ("rejected", {}, "plan_not_approved"),
        ("approved", {"client": "c9"}, "dataset_missing"),
        ("approved", {"state": "9" * 64}, "client_state_missing"),
    ],
)
def test_what_may_not_or_cannot_be_done_is_refused_before_anything_runs(
    node: Node, state: str, changed: dict[str, Any], code: str
) -> None:
    node.know(bundle_of(), state)
    node.give(assignment(bundle_of(), **changed))
    answer = node.answer()
    assert (answer["verb"], answer["code"]) == ("fail", code)
    assert children() == []
    assert node.peer.asked("GET") == []


@pytest.mark.parametrize(("key", "value"), [("epoch", 2), ("epochs", "2")])
def test_f3_f6_arguments_are_checked_before_the_approval_and_the_key_is_named(node: Node, key: str, value: Any) -> None:
    node.know(bundle_of(), "pending")
    node.give(assignment(bundle_of(), options={"local": {"lr": 0.1, key: value}}))
    answer = node.answer()
    assert (answer["verb"], answer["code"]) == ("fail", "arguments_refused")
    assert f"`local.{key}`" in answer["reason"]
    assert children() == []
    assert node.peer.asked("GET") == []


def test_what_the_policy_does_not_allow_is_refused_with_its_rule_and_nothing_runs(node: Node) -> None:
    (node.home / "policy.toml").write_text("[allow]\noptions = { 'local.epochs' = { high = 1 } }\n")
    node.know(bundle_of())
    node.give(assignment(bundle_of()))
    answer = node.answer()
    assert (answer["verb"], answer["code"]) == ("fail", "policy_refused")
    assert "allow.options.local.epochs" in answer["reason"]
    assert str(node.home) not in str(answer)
    assert children() == []
    assert node.peer.asked("GET") == []
    with Vault(node.home) as vault:
        until(lambda: [line.event for line in vault.audit()].count("refused") == 1)


def test_what_the_policy_keeps_here_is_made_and_not_sent(node: Node) -> None:
    (node.home / "policy.toml").write_text("[leave]\nupdate_bytes = 10\n")
    node.know(bundle_of())
    down = with_model(node)
    node.give(assignment(bundle_of(), broadcast=down))
    answer = node.answer()
    assert (answer["verb"], answer["code"]) == ("fail", "policy_refused")
    assert "`leave.update_bytes`" in answer["reason"]
    assert set(node.peer.blobs) == set(down.values()), "nothing came up"


def test_a_dataset_that_is_gone_is_said_without_its_path(node: Node, tmp_path: Path) -> None:
    (tmp_path / "data.npz").unlink()
    node.know(bundle_of())
    node.give(assignment(bundle_of(), broadcast=with_model(node)))
    answer = node.answer()
    assert answer["code"] == "dataset_unreadable"
    assert "data.npz" not in str(answer) and str(tmp_path) not in str(answer)


def test_work_that_crashes_is_a_failed_ask_and_the_node_goes_on(node: Node) -> None:
    crashing = bundle_of(f"{PLAN}\nimport os\nos._exit(1)\n")
    for bundle in (crashing, bundle_of()):
        node.know(bundle)
    down = with_model(node)
    bad = assignment(crashing, broadcast=down)
    node.give(bad, assignment(bundle_of(), id="a_2", run="r_2", broadcast=down))
    assert node.answer()["code"] == "work_crashed"
    assert node.answer("a_2")["verb"] == "contribute"


def test_case_24_a_home_that_takes_no_file_fails_each_ask_and_says_so(node: Node) -> None:
    work, audit = node.home / "work", node.home / "audit"
    node.know(bundle_of())
    down = with_model(node)
    until(work.is_dir)
    work.rename(node.home / "kept")
    work.touch()
    node.give(assignment(bundle_of(), broadcast=down))
    assert node.answer()["verb"] == "fail"
    work.unlink()
    (node.home / "kept").rename(work)
    audit.rename(node.home / "kept")
    audit.touch()
    node.give(assignment(bundle_of(), id="a_2", broadcast=down))
    assert (node.answer("a_2")["verb"], node.answer("a_2")["code"]) == ("fail", "audit_unwritable")
    assert children() == []
    audit.unlink()
    (node.home / "kept").rename(audit)
    node.give(assignment(bundle_of(), id="a_3", broadcast=down))
    assert node.answer("a_3")["verb"] == "contribute"


def test_a_contribution_that_was_taken_is_no_failure_where_the_log_cannot_say_so(node: Node) -> None:
    node.know(bundle_of())
    down, audit = with_model(node), node.home / "audit"

    def spoil(request: Request, answer: Answer) -> Answer:
        if request.path.endswith("/contribute"):
            audit.rename(node.home / "kept")
            audit.touch()
        else:
            node.peer.faults.append(spoil)
        return answer

    node.peer.faults.append(spoil)
    node.give(assignment(bundle_of(), broadcast=down))
    assert node.answer()["verb"] == "contribute"
    until(audit.is_file)
    node.give(assignment(bundle_of(), id="a_2", broadcast=down))
    assert node.answer("a_2")["code"] == "audit_unwritable"
    assert len(node.answers("a_1")) == 1
    audit.unlink()
    (node.home / "kept").rename(audit)


def test_work_ends_where_it_takes_longer_than_the_policy_lets_it_whatever_it_says_of_steps(node: Node) -> None:
    (node.home / "policy.toml").write_text('sandbox = "off"\n[resources]\nseconds = 1\n')
    slow = bundle_of(PLAN.replace("return nn.functional", "import time; time.sleep(0.3); return nn.functional"))
    node.know(slow)
    node.give(assignment(slow, broadcast=with_model(node), options={"local": {"lr": 0.1, "epochs": 500}}))
    answer = node.answer()
    assert (answer["verb"], answer["code"]) == ("fail", "policy_refused")
    assert "`resources.seconds`" in answer["reason"]
    until(lambda: children() == [])
    with Vault(node.home) as vault:
        begun = until(lambda: [line.facts for line in vault.audit() if line.event == "round_started"])
    assert [facts["sandbox"] for facts in begun] == ["off"], "as it was when this work began"


def test_leases_are_renewed_while_steps_are_taken_and_work_ends_when_its_lease_is_lost(node: Node) -> None:
    slow = bundle_of(PLAN.replace("return nn.functional", "import time; time.sleep(0.3); return nn.functional"))
    node.know(slow)
    node.give(assignment(slow, lease=1.0, broadcast=with_model(node), options={"local": {"lr": 0.1, "epochs": 500}}))
    renewals = "/node/assignments/a_1/renew"
    until(lambda: len(node.peer.asked("POST", renewals)) >= 3)
    assert len(children()) == 1
    node.peer.answers[f"POST {renewals}"] = problem(ConflictError("lease_lost", "It is lost."))
    until(lambda: children() == [])
    assert node.answers("a_1") == []


def test_case_21_work_that_a_poll_says_is_not_awaited_ends_and_what_is_in_hand_is_told(node: Node) -> None:
    """Renewals go nowhere, polls come through."""
    slow = bundle_of(PLAN.replace("return nn.functional", "import time; time.sleep(0.3); return nn.functional"))
    node.know(slow)
    node.peer.answers["POST /node/assignments/a_1/renew"] = Answer(503, b"", "text/html")
    node.give(assignment(slow, lease=1.0, broadcast=with_model(node), options={"local": {"lr": 0.1, "epochs": 500}}))
    until(children)
    until(lambda: any(poll.json().get("held") == ["a_1"] for poll in node.peer.asked("POST", "/node/poll")))
    node.peer.answers["POST /node/poll"] = [said(Work(stop=("a_1", "a_2"))), IDLE]
    until(lambda: children() == [])
    until(lambda: node.peer.asked("POST", "/node/poll")[-1].json()["held"] == [])
    assert node.answers("a_1") == []


def test_a_node_comes_back_when_it_is_told_to(node: Node) -> None:
    node.peer.answers["POST /node/poll"] = [said(Work(then="come_back", seconds=1.2)), IDLE]

    def rests() -> list[float]:
        came = [request.at for request in node.peer.asked("POST", "/node/poll")]
        return [after - before for before, after in pairwise(came)]

    until(lambda: max(rests(), default=0.0) >= 1.2)
    assert node.peer.answers["POST /node/poll"] == [IDLE], "it was told, and came"


def test_a_node_reports_facts_and_after_its_work_how_fast_it_was_and_its_owner_hears_what_is_not_taken(
    node: Node,
) -> None:
    first = node.greetings()[0]
    assert first["facts"]["device"] == "cpu"
    assert {"python", "torch", "numpy"} <= set(first["facts"]["frameworks"])
    assert first["facts"]["cores"] >= 1
    assert [dataset["speed"] for dataset in first["datasets"]] == [None]
    refused = DatasetRefused(client="c0000", code="client_name_taken", reason="It is another node's.")
    node.peer.answers["POST /node/hello"] = said(Welcome(node="nd_1", wait=5.0, refused=(refused,)))
    node.know(bundle_of())
    node.give(assignment(bundle_of(), broadcast=with_model(node)))
    assert node.answer()["verb"] == "contribute"
    (node.home / "policy.toml").write_text("[resources]\nbatch_size = 32\n")
    opt_out(node.home)
    node.know(bundle_of(PLAN + "# another"))
    until(lambda: len(node.greetings()[-1]["approvals"]) == 2)
    assert [node.greetings()[at]["datasets"][0]["batch_size"] for at in (0, -1)] == [None, 32], "as the policy has it"
    node.know(bundle_of(PLAN + "# a third"))
    until(lambda: len(node.greetings()[-1]["approvals"]) == 3)
    assert node.greetings()[-1]["datasets"][0]["speed"] > 0
    with Vault(node.home) as vault:
        told = [(line.subject, line.detail) for line in vault.audit() if line.event == "dataset_refused"]
    assert told == [("c0000", "client_name_taken: It is another node's.")]


def test_a_later_lease_of_what_is_in_hand_brings_its_token(node: Node) -> None:
    slow = bundle_of(PLAN.replace("return columns", "import time; time.sleep(2); return columns"))
    node.know(slow)
    down = with_model(node)
    node.give(assignment(slow, broadcast=down))
    until(children)
    node.give(assignment(slow, token=2, broadcast=down))
    assert node.answer()["token"] == 2
    time.sleep(0.5)
    assert len(node.answers("a_1")) == 1


def test_a_contribution_that_comes_too_late_is_let_go(node: Node) -> None:
    node.know(bundle_of())
    down = with_model(node)
    late = assignment(bundle_of(), broadcast=down)
    node.peer.answers["POST /node/assignments/a_1/contribute"] = problem(RoundClosedError("round_closed", "Late."))
    node.give(late, assignment(bundle_of(), id="a_2", broadcast=down))
    assert node.answer("a_2")["verb"] == "contribute"
    assert [request.path.rpartition("/")[2] for request in node.answers("a_1")] == ["contribute"]


def test_a_coordinator_that_is_down_is_waited_for_with_the_contribution(node: Node) -> None:
    node.know(bundle_of())
    path = "/node/assignments/a_1/contribute"
    busy = Answer(503, b"", "text/html")
    node.peer.answers[f"POST {path}"] = [busy, busy, said(Accepted(assignment="a_1", outcome="counted"))]
    node.give(assignment(bundle_of(), broadcast=with_model(node)))
    requests = until(lambda: len(found := node.answers("a_1")) == 3 and found)
    assert len({request.headers["signature"] for request in requests}) == 3
    assert len({request.body for request in requests}) == 1


def test_a_broken_poll_with_nothing_in_hand_is_a_new_boot(node: Node) -> None:
    node.peer.answers["POST /node/poll"] = [Answer(200, b'{"assignm', cut=3), IDLE]
    until(lambda: len(node.greetings()) == 2)
    first, second = node.greetings()
    assert first["boot"] != second["boot"]


def test_a_second_agent_in_the_same_home_is_refused(node: Node) -> None:
    with pytest.raises(ConflictError) as caught:
        run_agent(node.home, threading.Event(), SETTINGS)
    assert caught.value.code == "node_running"


def test_a_node_that_was_revoked_ends_and_says_so(tmp_path: Path) -> None:
    with serving(Peer()) as peer, living(tmp_path, peer) as node:
        peer.answers["POST /node/poll"] = problem(ForbiddenError("node_revoked", "It was revoked."))
        (error,) = until(lambda: node.error)
    assert isinstance(error, ForbiddenError) and error.code == "node_revoked"


def test_a_node_that_has_not_joined_is_told_to(tmp_path: Path) -> None:
    init(tmp_path / "home", "clinic-a")
    with pytest.raises(UsageError) as caught:
        run_agent(tmp_path / "home", threading.Event(), SETTINGS)
    assert caught.value.code == "node_not_joined"


def test_the_agent_imports_no_torch() -> None:
    source = Path(__file__).parents[3] / "src"
    code = "import sys, foedus.node.service; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(source)}, check=False).returncode == 0


def test_a_dataset_edited_in_place_is_another_one_to_the_next_run_and_refused_to_the_one_that_goes_on(
    node: Node, tmp_path: Path
) -> None:
    bundle = bundle_of()
    node.know(bundle)
    (node.home / "policy.toml").write_text('sandbox = "off"\n')
    model = with_model(node)
    node.give(assignment(bundle, broadcast=model))
    assert node.answer("a_1")["verb"] == "contribute"
    edited = columns(40)
    write_columns(tmp_path / "data.npz", {name: values[-25:] for name, values in edited.items()})
    node.give(assignment(bundle, id="a_2", round=2, broadcast=model))
    refused = node.answer("a_2")
    assert (refused["verb"], refused["code"]) == ("fail", "dataset_changed"), "a run's data stay the same"
    node.give(assignment(bundle, id="a_3", run="r_2", broadcast=model))
    assert node.answer("a_3")["verb"] == "contribute"
    with Vault(node.home) as vault:
        (line,) = [line for line in vault.audit() if line.event == "dataset_changed"]
        assert (line.subject, line.detail) == ("c0000", "edited since: 25 examples before, 25 now")
        kinds = [(line.event, line.facts.get("run")) for line in vault.audit()]
        assert kinds.index(("dataset_changed", None)) < kinds.index(("round_started", "r_2")), "before a plan sees it"


def test_what_the_owner_decides_while_the_node_greets_for_the_first_time_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what the first greeting says and the first look at whether anything has changed."""
    before = agent.hello

    def hello(*words: Any) -> Any:
        monkeypatch.setattr(agent, "hello", before)
        with Vault(tmp_path / "home") as vault:
            vault.record_plan(PlanEntry(bundle_of().digest, "study", "ada", "pending", "", 1.0, None))
        return before(*words)

    monkeypatch.setattr(agent, "hello", hello)
    with serving(Peer()) as peer, living(tmp_path, peer) as running:
        until(running.greetings)
        until(lambda: running.approvals() == {bundle_of().digest: "pending"}, 10)
    assert running.error == []
