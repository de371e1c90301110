"""Nodes join with a token and their own key, say what they have, and are shown to people; admins let in and out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, insert

from foedus.coordinator import polling
from foedus.coordinator.pace import come_back
from foedus.coordinator.readiness import facts_of
from foedus.store import tables
from foedus.wire.messages import PROTOCOL
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import RequestHead, Signer, sign
from tests.unit.coordinator.door import API, BOOT, Door, code, opened


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A coordinator."""
    with opened(tmp_path_factory.mktemp("coordinator")) as door:
        yield door


def _signer(key: bytes | None = None) -> Signer:
    key = key or generate_key()
    return Signer(public_key(key), key)


def test_a_node_joins_says_what_it_has_and_is_shown(door: Door) -> None:
    node = door.enrol("clinic-a")
    dataset = {"client": "a-1", "tags": ["digits", "adult"], "examples": 42}
    hello = {"boot": BOOT, "version": "0.9", "datasets": [dataset]}
    reply = door.signed(node, "POST", "/node/hello", json.dumps(hello).encode())
    assert reply.json()["node"] == node.key_id
    (view,) = [view for view in door.ask("GET", "/nodes").json()["nodes"] if view["name"] == "clinic-a"]
    shown = {**dataset, "batch_size": None, "speed": None}
    assert (view["status"], view["version"], view["datasets"]) == ("active", "0.9", [shown])
    assert view["last_seen"] >= 0.0


def test_joining_is_signed_with_the_key_that_it_brings(door: Door) -> None:
    mine, other = _signer(), _signer()
    token = door.ask("POST", "/join-tokens").json()["token"]
    body = json.dumps({"token": token, "name": "clinic-b", "public_key": mine.key_id}).encode()
    assert code(door.signed(other, "POST", "/node/join", body)) == "key_unknown"
    assert code(door.signed(Signer(mine.key_id, other.private), "POST", "/node/join", body)) == "signature_invalid"
    assert code(door.send("POST", "/node/join", body, {})) == "signature_missing"
    assert door.signed(mine, "POST", "/node/join", body).status_code == 200
    again = door.signed(mine, "POST", "/node/join", body)
    assert (again.status_code, again.json()) == (200, door.signed(mine, "POST", "/node/join", body).json())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "../clinic"}, "message_malformed"),
        ({"name": "n" * 10_000}, "message_malformed"),
        ({"public_key": "A" * 44}, "key_malformed"),
        ({"public_key": "x"}, "message_malformed"),
        ({"token": "fdj_" + "0" * 48}, "join_token_refused"),
        ({"protocol": PROTOCOL + 1}, "protocol_unknown"),
        ({"extra": 1}, "message_malformed"),
    ],
)
def test_what_is_wrong_with_joining_is_told(changes: dict[str, object], expected: str, door: Door) -> None:
    before = len(door.ask("GET", "/nodes").json()["nodes"])
    assert code(door.join(_signer(), **{"name": "clinic-c", **changes})) == expected
    assert len(door.ask("GET", "/nodes").json()["nodes"]) == before


def test_a_name_belongs_to_the_node_that_had_it_first_until_an_admin_releases_it(door: Door) -> None:
    """The other datasets of a node whose one name clashes are taken."""

    def hello(node: Signer, *clients: str) -> list[tuple[str, str]]:
        datasets = [{"client": client, "tags": [], "examples": 1} for client in clients]
        body = json.dumps({"boot": BOOT, "version": "0", "datasets": datasets}).encode()
        reply = door.signed(node, "POST", "/node/hello", body)
        assert reply.status_code == 200
        return [(refused["client"], refused["code"]) for refused in reply.json()["refused"]]

    def shown(name: str) -> list[str]:
        nodes = door.ask("GET", "/nodes").json()["nodes"]
        return [each["client"] for node in nodes if node["name"] == name for each in node["datasets"]]

    first, second = door.enrol("clinic-d"), door.enrol("clinic-e")
    assert hello(first, "d-1") == []
    assert hello(second, "d-1", "e-1") == [("d-1", "client_name_taken")]
    assert (shown("clinic-d"), shown("clinic-e")) == (["d-1"], ["e-1"])
    assert hello(first) == []
    assert hello(second, "d-1") == [("d-1", "client_name_taken")], "it is kept while its owner does not offer it"
    assert door.ask("POST", "/client-names/nobody/release").status_code == 404
    assert door.ask("POST", "/client-names/d-1/release").json() == {"client": "d-1"}
    assert hello(second, "d-1") == []
    assert hello(first, "d-1") == [("d-1", "client_name_taken")]
    assert shown("clinic-e") == ["d-1"]


def test_facts_are_typed_and_unknown_ones_are_refused(door: Door) -> None:
    node = door.enrol("clinic-facts")

    def hello(facts: object, **dataset: object) -> int:
        data = [{"client": "f-1", "examples": 3, **dataset}]
        body = json.dumps({"boot": BOOT, "version": "0", "datasets": data, "facts": facts}).encode()
        return door.signed(node, "POST", "/node/hello", body).status_code

    facts = {"device": "cpu", "cores": 4, "memory": 2**33, "frameworks": {"torch": "2.13.0"}}
    assert hello(facts, batch_size=32, speed=120.5) == 200
    (shown,) = [each for each in door.ask("GET", "/nodes").json()["nodes"] if each["name"] == "clinic-facts"]
    assert shown["facts"] == facts
    assert (shown["datasets"][0]["batch_size"], shown["datasets"][0]["speed"]) == (32, 120.5)
    with door.parts.store.reading() as tx:
        known = facts_of(tx, ["f-1"])["f-1"]
    assert (known.examples, known.batch_size, known.speed) == (3, 32, 120.5), "what selectors are given"
    many = {f"f{number}": "1" for number in range(17)}
    for wrong in (
        {**facts, "gpu": 1},
        {"device": "abacus"},
        {"cores": 0},
        {"memory": "much"},
        {"frameworks": {"torch": "2 or so"}},
        {"frameworks": many},
    ):
        assert hello(wrong) == 400
    for wrong in ({"speed": -1.0}, {"speed": "fast"}, {"batch_size": 0}, {"mood": "good"}):
        assert hello(facts, **wrong) == 400


@pytest.mark.parametrize("minutes", [-10, 10])
def test_case_19_a_node_whose_clock_is_wrong_is_told_by_how_much_and_one_minute_is_tolerated(
    minutes: int, door: Door
) -> None:
    node = door.enrol(f"clinic-clock-{minutes + 10}")
    body = json.dumps({"boot": BOOT, "version": "0"}).encode()

    def hello(ahead: float) -> httpx.Response:
        head = RequestHead("POST", API + "/node/hello", "", {})
        signature = sign(node, head, hashlib.sha256(body).digest(), time.time() + ahead)
        return door.send("POST", "/node/hello", body, signature)

    reply = hello(minutes * 60.0)
    assert (reply.status_code, code(reply)) == (401, "signature_expired")
    assert ("s ago by our clock" if minutes < 0 else "s ahead by our clock") in reply.json()["detail"]
    assert hello(55.0).status_code == 200


def test_a_large_population_is_told_when_to_come_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small one everybody stays; of one ten times as large as may be connected, nine in ten are away."""
    node = door.enrol("clinic-pace")
    hello = json.dumps({"boot": BOOT, "version": "0"}).encode()
    assert door.signed(node, "POST", "/node/hello", hello).status_code == 200
    asked = {"boot": BOOT, "wait": 0.1}

    def poll() -> dict[str, Any]:
        reply = door.signed(node, "POST", "/node/poll", json.dumps(asked).encode())
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    assert (poll()["then"], poll()["seconds"]) == ("poll", 0.0)
    now, row = time.time(), {"status": "active", "joined_at": 0.0, "boot": "", "version": ""}
    names = [f"crowd-{number}" for number in range(99)]
    crowd = [{**row, "id": f"nd_{n}", "name": n, "public_key": n, "last_seen": now} for n in names]
    with door.parts.store.transaction("test") as tx:
        tx.execute(insert(tables.nodes), crowd)
    monkeypatch.setattr(polling, "come_back", partial(come_back, connected=10))
    monkeypatch.setattr(door.parts.live.population, "at", 0.0)  # they were counted before the crowd came
    said = poll()
    with door.parts.store.transaction("test") as tx:
        tx.execute(delete(tables.nodes).where(tables.nodes.c.name.like("crowd-%")))
    count = (said["seconds"] / 0.1) / 1.0
    assert said["then"] == "come_back"
    assert 9 * 0.5 <= count <= 11 * 1.5


def test_case_5_of_two_processes_with_one_identity_the_first_is_fenced_and_the_node_is_flagged(door: Door) -> None:
    node = door.enrol("clinic-twice")

    def say(path: str, boot: str) -> tuple[int, str]:
        body = {"boot": boot, "wait": 0} if path == "poll" else {"boot": boot, "version": "0"}
        reply = door.signed(node, "POST", f"/node/{path}", json.dumps(body).encode())
        return reply.status_code, code(reply) if reply.status_code != 200 else ""

    def clashes() -> int:
        nodes = door.ask("GET", "/nodes").json()["nodes"]
        return next(int(each["clashes"]) for each in nodes if each["name"] == "clinic-twice")

    assert say("hello", "first-process") == (200, "")
    assert say("poll", "first-process") == (200, "")
    assert say("hello", "second-process") == (200, "")
    assert clashes() == 0, "a node that began anew is no clash"
    assert say("poll", "second-process") == (200, "")
    assert say("poll", "first-process") == (409, "hello_needed")
    assert clashes() == 1
    assert say("hello", "first-process") == (200, "")
    assert say("poll", "second-process") == (409, "hello_needed")
    assert clashes() == 3


def test_a_researcher_does_not_do_what_admins_do(door: Door) -> None:
    token = door.user("ana", "researcher")
    assert door.ask("GET", "/nodes", token=token).status_code == 200
    for path in ("/join-tokens", "/users", "/nodes/nd_1/revoke"):
        reply = door.ask("POST", path, token=token, json={"name": "bob"})
        assert (reply.status_code, code(reply)) == (403, "role_needed")


def test_a_node_is_not_a_person(door: Door) -> None:
    node = door.enrol("clinic-f")
    for method, path in (("GET", "/nodes"), ("POST", "/join-tokens"), ("GET", "/runs")):
        reply = door.signed(node, method, path)
        assert (reply.status_code, code(reply)) == (401, "token_missing")


def test_an_unknown_node_cannot_be_revoked(door: Door) -> None:
    for name in ("nd_unknown", "..", "a%00b", "n" * 5000):
        assert door.ask("POST", f"/nodes/{name}/revoke").status_code in (400, 404)


def test_a_poll_ends_when_its_time_is_up_and_needs_a_hello(door: Door) -> None:
    node = door.enrol("clinic-g")
    poll = json.dumps({"boot": BOOT, "wait": 0.05}).encode()
    assert code(door.signed(node, "POST", "/node/poll", poll)) == "hello_needed"
    hello = json.dumps({"boot": BOOT, "version": "0"}).encode()
    assert door.signed(node, "POST", "/node/hello", hello).status_code == 200
    reply = door.signed(node, "POST", "/node/poll", poll)
    said = reply.json()
    assert [said[each] for each in ("assignments", "plans", "ended", "stop")] == [[], [], [], []]
    assert (said["then"], said["seconds"]) == ("poll", 0.0)
