"""The door refuses what is unsigned, replayed, altered, too long or malformed, and says so as a problem."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import func, select

from foedus.coordinator.http import once
from foedus.domain.errors import ConflictError
from foedus.store.people import api_tokens
from foedus.store.unit_of_work import Store
from foedus.wire.public_keys import generate_key
from foedus.wire.signing import Signer
from tests.unit.coordinator.door import API, BOOT, Door, code, opened


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A coordinator whose bodies have at most 4,000 bytes."""
    with opened(tmp_path_factory.mktemp("coordinator"), body_limit=4000) as door:
        yield door


@pytest.fixture(scope="module")
def node(door: Door) -> Signer:
    """A node that has joined."""
    return door.enrol("clinic-a")


def _hello(**changes: Any) -> bytes:
    return json.dumps({"boot": BOOT, "version": "0", "datasets": [], **changes}).encode()


def test_a_signed_request_is_let_in(door: Door, node: Signer) -> None:
    reply = door.signed(node, "POST", "/node/hello", _hello())
    assert (reply.status_code, reply.json()["node"]) == (200, node.key_id)


@pytest.mark.parametrize("missing", ["Signature", "Signature-Input", "Content-Digest"])
def test_an_unsigned_request_is_refused(missing: str, door: Door, node: Signer) -> None:
    headers = door.signature(node, "POST", "/node/hello", _hello())
    del headers[missing]
    reply = door.send("POST", "/node/hello", _hello(), headers)
    assert (reply.status_code, code(reply)) == (401, "signature_missing")


def test_a_persons_token_is_no_signature(door: Door) -> None:
    assert code(door.ask("POST", "/node/hello", content=_hello())) == "signature_missing"


def test_a_replayed_request_is_refused(door: Door, node: Signer) -> None:
    headers = door.signature(node, "POST", "/node/hello", _hello())
    assert door.send("POST", "/node/hello", _hello(), headers).status_code == 200
    reply = door.send("POST", "/node/hello", _hello(), headers)
    assert (reply.status_code, code(reply)) == (401, "signature_replayed")


def test_a_request_with_another_body_is_refused(door: Door, node: Signer) -> None:
    headers = door.signature(node, "POST", "/node/hello", _hello())
    reply = door.send("POST", "/node/hello", _hello(version="1"), headers)
    assert (reply.status_code, code(reply)) == (422, "body_mismatch")


@pytest.mark.parametrize(
    ("method", "signed", "sent"),
    [
        ("POST", "/node/poll", "/node/hello"),
        ("PUT", "/node/hello", "/node/hello"),
        ("POST", "/node/hello", "/node/hello?x=1"),
    ],
)
def test_a_signature_is_worth_nothing_elsewhere(method: str, signed: str, sent: str, door: Door, node: Signer) -> None:
    headers = door.signature(node, method, signed, _hello())
    reply = door.send("POST", sent, _hello(), headers)
    assert (reply.status_code, code(reply)) == (401, "signature_invalid")


def test_another_nodes_key_does_not_sign_for_this_one(door: Door, node: Signer) -> None:
    reply = door.signed(Signer(node.key_id, generate_key()), "POST", "/node/hello", _hello())
    assert (reply.status_code, code(reply)) == (401, "signature_invalid")


def test_a_stranger_is_refused(door: Door) -> None:
    reply = door.signed(Signer("nd_stranger", generate_key()), "POST", "/node/hello", _hello())
    assert (reply.status_code, code(reply)) == (401, "key_unknown")


def test_a_revoked_node_is_refused_at_once(door: Door) -> None:
    node = door.enrol("clinic-r")
    assert door.signed(node, "POST", "/node/hello", _hello()).status_code == 200
    assert door.ask("POST", f"/nodes/{node.key_id}/revoke").json()["status"] == "revoked"
    for method, path in (("POST", "/node/hello"), ("POST", "/node/poll"), ("HEAD", "/blobs/" + "a" * 64)):
        assert door.signed(node, method, path).status_code == 401


@pytest.mark.parametrize("token", ["short", "fdp_" + "0" * 48, "x" * 10_000])
def test_an_unknown_token_is_refused(token: str, door: Door) -> None:
    reply = door.client.get(f"{door.url}{API}/runs", headers={"Authorization": f"Bearer {token}"})
    assert (reply.status_code, code(reply) in {"token_missing", "token_refused"}) == (401, True)


@pytest.mark.parametrize("name", ["../up", "a/b", "a\x00b", "a\nb", "a b", "", ".", "ü", "n" * 10_000])
def test_names_that_are_no_names_are_refused(name: str, door: Door, node: Signer) -> None:
    body = _hello(datasets=[{"client": name, "tags": [], "examples": 1}])
    reply = door.signed(node, "POST", "/node/hello", body)
    expected = {"body_too_large"} if len(name) > 4000 else {"message_malformed"}
    assert {code(reply)} == expected
    assert code(door.ask("POST", "/tokens", json={"name": name})) in expected


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"name": "a", "extra": 1}', b"\xff\xfe", b"[" * 3000])
def test_a_malformed_message_is_refused_with_the_field(body: bytes, door: Door) -> None:
    reply = door.ask("POST", "/tokens", content=body)
    assert (reply.status_code, code(reply)) == (400, "message_malformed")
    assert reply.json()["detail"].isascii()


def test_paths_and_methods_that_there_are_not_are_problems(door: Door) -> None:
    assert code(door.ask("GET", "/nothing")) == "http_404"
    assert code(door.ask("DELETE", "/runs")) == "http_405"
    assert code(door.ask("GET", "/runs/..%2f..%2fetc%2fpasswd")) in {"http_404", "run_unknown"}


def _chunked(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000):
        yield b" " * 1000


def test_a_body_over_the_limit_is_refused_whatever_its_header_says(door: Door) -> None:
    for content in (b" " * 5000, _chunked(5000)):
        reply = door.ask("POST", "/tokens", content=content)
        assert (reply.status_code, code(reply)) == (413, "body_too_large")


def _request(door: Door, headers: str, body: bytes) -> bytes:
    lines = f"POST {API}/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.token}\r\n{headers}\r\n\r\n"
    return door.raw(lines.encode() + body)


def _tokens(door: Door) -> int:
    with door.parts.store.reading() as tx:
        return tx.execute(select(func.count()).select_from(api_tokens)).scalar_one()


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: -1",
        "Content-Length: 1e3",
        "Content-Length: 18446744073709551617",
        "Content-Length: 15\r\nContent-Length: 16",
        "Transfer-Encoding: chunked\r\nContent-Length: 15",
        "Transfer-Encoding: chunked",
    ],
)
def test_lengths_that_lie_do_nothing(headers: str, door: Door) -> None:
    before = _tokens(door)
    reply = _request(door, headers, b'{"name": "ana"}')
    assert b"fdp_" not in reply
    assert b" 200 " not in reply.split(b"\r\n")[0]
    assert _tokens(door) == before


def test_a_body_shorter_than_its_length_does_nothing_and_is_no_error_of_ours(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    reply = _request(door, "Content-Length: 100", b'{"name": "ana"}')
    assert b"fdp_" not in reply
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_what_was_not_foreseen_is_told_without_details(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(tx: object, who: object) -> None:
        raise ZeroDivisionError("a secret path /home/ana")

    monkeypatch.setattr("foedus.coordinator.nodes.list_nodes", broken)
    reply = door.ask("GET", "/nodes")
    assert (reply.status_code, code(reply)) == (500, "internal")
    assert "ana" not in reply.text
    assert "ZeroDivisionError" in caplog.text


class _Reply(BaseModel):
    count: int


def test_a_key_does_its_effect_once_and_refuses_another_body(tmp_path: Path) -> None:
    store, done = Store(f"sqlite:///{tmp_path / 'a.db'}"), list[int]()

    def effect() -> _Reply:
        done.append(1)
        return _Reply(count=len(done))

    def send(actor: str, body: bytes) -> dict[str, Any]:
        with store.transaction("t") as tx:
            return once(tx, actor, "key-0001", body, effect)

    assert send("person:a", b"1") == send("person:a", b"1") == {"count": 1}
    with pytest.raises(ConflictError) as refusal:
        send("person:a", b"2")
    assert refusal.value.code == "idempotency_conflict"
    assert send("person:b", b"2") == {"count": 2}


def test_an_effect_that_fails_leaves_its_key_free(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")

    def broken() -> _Reply:
        raise RuntimeError

    with pytest.raises(RuntimeError), store.transaction("t") as tx:
        once(tx, "person:a", "key-0001", b"1", broken)
    with store.transaction("t") as tx:
        assert once(tx, "person:a", "key-0001", b"1", lambda: _Reply(count=7)) == {"count": 7}


def test_a_run_needs_an_idempotency_key(door: Door) -> None:
    for key in ({}, {"Idempotency-Key": "short"}, {"Idempotency-Key": "k" * 201}):
        reply = door.ask("POST", "/runs", headers=key, content=b"{}")
        assert (reply.status_code, code(reply)) == (400, "idempotency_key_missing")
