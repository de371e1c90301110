"""Who may join and speak: join tokens, replays, keys that are replaced, revocation, attempts that fail."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from foedus.coordinator import guards
from foedus.coordinator.guards import ADDRESSES, ATTEMPTS, REFILL, Failures
from foedus.store.people import api_tokens
from foedus.store.tables import join_tokens
from foedus.wire.proofs import prove
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import Signer, hash_secret
from foedus.wire.trust import rotation
from tests.unit.coordinator.door import API, BOOT, Door, code, opened

HELLO = json.dumps({"boot": BOOT, "version": "1"}).encode()
OUTSIDE = {"X-Forwarded-For": "203.0.113.7"}
"""An address that is not this machine's, as a proxy on this machine tells it."""


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("identity")) as found:
        for name in ("clinic", "lab"):
            make(found, "/orgs", name=name)
        yield found


def make(door: Door, path: str, **fields: object) -> dict[str, Any]:
    reply = door.ask("POST", path, json=fields, headers={"Idempotency-Key": secrets.token_hex(8)})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def invite(door: Door, **wanted: object) -> str:
    reply = door.ask("POST", "/join-tokens", json=wanted)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["token"])


def join(door: Door, token: str, name: str, organisation: str = "", key: bytes | None = None) -> httpx.Response:
    private = key or generate_key()
    public = public_key(private)
    body = {"token": token, "name": name, "organisation": organisation, "public_key": public}
    return door.signed(Signer(public, private), "POST", "/node/join", json.dumps(body).encode())


def test_case_48_a_join_token_works_once(door: Door) -> None:
    token = invite(door)
    assert join(door, token, "once-a").status_code == 200
    reply = join(door, token, "once-b")
    assert (reply.status_code, code(reply)) == (401, "join_token_refused")


def test_case_48_an_expired_join_token_is_refused(door: Door) -> None:
    token = invite(door, hours=1)
    with door.parts.store.transaction("test") as tx:
        mine = join_tokens.c.hash == hash_secret(token)
        left = tx.execute(select(join_tokens.c.expires_at).where(mine)).scalar_one() - time.time()
        assert 3500 < left <= 3600
        tx.execute(update(join_tokens).where(mine).values(expires_at=time.time() - 1))
    assert code(join(door, token, "late")) == "join_token_refused"


def test_case_48_a_token_of_another_organisation_or_name_is_refused(door: Door) -> None:
    token = invite(door, organisation="clinic", name="clinic-x")
    for name, organisation in (("clinic-x", "lab"), ("clinic-x", ""), ("clinic-y", "clinic")):
        assert code(join(door, token, name, organisation)) == "join_token_refused"
    assert join(door, token, "clinic-x", "clinic").status_code == 200


def test_case_48_nobody_invites_for_an_organisation_that_is_not_theirs(door: Door) -> None:
    """An admin of one organisation is told of another as of one that is not there."""
    lab = next(org["id"] for org in door.ask("GET", "/orgs").json()["orgs"] if org["name"] == "lab")
    user = make(door, "/users", name="lab-admin", org=lab, roles=["admin"])
    token = make(door, "/tokens", name="t", user=user["id"])["token"]
    refusals = [door.ask("POST", "/join-tokens", token=token, json={"organisation": org}) for org in ("clinic", "none")]
    assert [(reply.status_code, code(reply)) for reply in refusals] == [(404, "org_unknown")] * 2
    assert refusals[0].json() == refusals[1].json()
    assert door.ask("POST", "/join-tokens", token=token, json={"organisation": "lab"}).status_code == 200


def test_case_48_of_many_that_race_with_one_token_exactly_one_joins(door: Door) -> None:
    token, start = invite(door), threading.Barrier(8)

    def attempt(number: int) -> int:
        start.wait(120)
        return join(door, token, f"race-{number}").status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(8))) == [200] + [401] * 7
    names = [node["name"] for node in door.ask("GET", "/nodes").json()["nodes"]]
    assert len([name for name in names if name.startswith("race-")]) == 1


def test_case_49_a_replayed_request_is_refused_and_so_is_its_signature_over_anything_else(door: Door) -> None:
    node = door.enrol("replayed")
    headers = door.signature(node, "POST", "/node/hello", HELLO)
    assert door.send("POST", "/node/hello", HELLO, headers).status_code == 200
    again = door.send("POST", "/node/hello", HELLO, headers)
    assert (again.status_code, code(again)) == (401, "signature_replayed")
    fresh = door.signature(node, "POST", "/node/hello", HELLO)
    poll = json.dumps({"boot": BOOT, "wait": 0}).encode()
    changed = [
        door.send("PUT", "/node/hello", HELLO, fresh),
        door.send("POST", "/node/poll", HELLO, fresh),
        door.send("POST", "/node/hello?a=1", HELLO, fresh),
        door.send("POST", "/node/poll", poll, fresh),
        door.send("POST", "/node/hello", HELLO, {**fresh, "Idempotency-Key": "another-key-0"}),
    ]
    assert [(reply.status_code in {401, 405}) for reply in changed] == [True] * 5
    other = HELLO.replace(b'"1"', b'"2"')
    reply = door.send("POST", "/node/hello", other, fresh)
    assert (reply.status_code, code(reply)) == (422, "body_mismatch")
    nonce = re.sub(r'nonce="[0-9a-f]+"', f'nonce="{"0" * 32}"', headers["Signature-Input"])
    assert code(door.send("POST", "/node/hello", HELLO, {**headers, "Signature-Input": nonce})) == "signature_invalid"


def rotate(door: Door, signer: Signer, new: bytes, **changes: object) -> httpx.Response:
    public = public_key(new)
    command = {"public_key": public, "proof": prove(new, rotation(signer.key_id, public)), **changes}
    return door.signed(signer, "POST", "/node/rotate-key", json.dumps(command).encode())


def test_a_key_is_replaced_with_an_overlap_in_which_both_are_accepted(door: Door) -> None:
    old = door.enrol("rotating")
    new = Signer(old.key_id, generate_key())
    reply = rotate(door, old, new.private, overlap=60)
    assert (reply.status_code, reply.json()["overlap"]) == (200, 60)
    for signer in (old, new):
        assert door.signed(signer, "POST", "/node/hello", HELLO).status_code == 200
        again = rotate(door, signer, new.private)
        assert again.status_code == 200 and 0 < again.json()["overlap"] <= 60
    third = generate_key()
    assert code(rotate(door, old, third)) == "key_retired"
    assert rotate(door, new, third, overlap=0).status_code == 200
    assert code(door.signed(new, "POST", "/node/hello", HELLO)) == "signature_invalid"
    assert door.signed(Signer(old.key_id, third), "POST", "/node/hello", HELLO).status_code == 200


def test_a_key_is_taken_only_from_who_holds_it_and_never_returns(door: Door) -> None:
    old, other = door.enrol("stealing"), door.enrol("stolen-from")
    new = generate_key()
    public = public_key(new)
    assert code(rotate(door, old, new, proof=prove(generate_key(), rotation(old.key_id, public)))) == "proof_refused"
    assert code(rotate(door, old, new, proof=prove(new, rotation(other.key_id, public)))) == "proof_refused"
    assert code(rotate(door, old, new, proof="!" * 88)) == "proof_refused"
    anybody_signs = {"public_key": "A" * 43 + "=", "proof": base64.b64encode(bytes(64)).decode()}
    assert code(rotate(door, old, new, **anybody_signs)) == "key_malformed"
    assert code(rotate(door, old, other.private)) == "key_taken"
    assert rotate(door, old, new).status_code == 200
    assert code(rotate(door, other, old.private)) == "key_taken"
    assert code(rotate(door, Signer(old.key_id, new), old.private)) == "key_taken"


def test_revocation_ends_an_open_poll_an_upload_and_a_lease_at_once(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "CHECK", 0.2)
    node = door.enrol("revoked")
    assert door.signed(node, "POST", "/node/hello", HELLO).status_code == 200
    sent, revoked = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield bytes(1000)
        sent.set()
        for _ in range(200):  # slowly until it is revoked, and for long enough to be noticed then
            time.sleep(0.02 if revoked.wait(0.3) else 0.0)
            yield bytes(1000)

    def poll() -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=240) as client:
            body = json.dumps({"boot": BOOT, "wait": 30}).encode()
            headers = door.signature(node, "POST", "/node/poll", body)
            return client.post(f"{door.url}{API}/node/poll", content=body, headers=headers)

    def upload() -> httpx.Response:
        content = bytes(201_000)
        digest = hashlib.sha256(content).hexdigest()
        with httpx.Client(trust_env=False, timeout=240) as client:
            headers = door.signature(node, "PUT", f"/blobs/{digest}", content)
            return client.put(f"{door.url}{API}/blobs/{digest}", content=slowly(), headers=headers)

    with ThreadPoolExecutor(2) as pool:
        polled, uploaded = pool.submit(poll), pool.submit(upload)
        assert sent.wait(120)
        time.sleep(0.3)
        assert door.ask("POST", f"/nodes/{node.key_id}/revoke").status_code == 200
        revoked.set()
        began = time.monotonic()
        assert (polled.result().status_code, uploaded.result().status_code) == (401, 401)
        assert time.monotonic() - began < 30
    for path in ("/node/hello", "/node/poll", "/node/assignments/as_1/renew", "/node/rotate-key"):
        assert code(door.signed(node, "POST", path, HELLO)) == "key_unknown"


def test_case_54_a_hundred_wrong_tokens_are_slowed_and_a_right_one_is_not(door: Door) -> None:
    """The address that fails waits, told for how long; nobody who knows a secret is locked out by it."""
    wrong = [door.ask("GET", "/nodes", token=f"fdp_{number:048d}", headers=OUTSIDE) for number in range(100)]
    codes = [reply.status_code for reply in wrong]
    assert codes[:ATTEMPTS] == [401] * ATTEMPTS
    assert set(codes[ATTEMPTS:]) <= {401, 429} and codes.count(429) >= 100 - ATTEMPTS - 30
    last = next(reply for reply in reversed(wrong) if reply.status_code == 429)
    assert code(last) == "too_many_attempts" and 1 <= int(last.headers["retry-after"]) <= 60
    assert door.ask("GET", "/nodes", headers=OUTSIDE).status_code == 200
    elsewhere = {"X-Forwarded-For": "203.0.113.8"}
    assert door.ask("GET", "/nodes", token="fdp_" + "1" * 48, headers=elsewhere).status_code == 401


def test_case_54_guessing_join_tokens_is_slowed(door: Door) -> None:
    key = generate_key()
    public, address = public_key(key), {"X-Forwarded-For": "203.0.113.9"}
    codes = []
    for number in range(ATTEMPTS + 10):
        body = json.dumps({"token": f"fdj_{number:048d}", "name": "guess", "public_key": public}).encode()
        headers = {**door.signature(Signer(public, key), "POST", "/node/join", body), **address}
        codes.append(door.send("POST", "/node/join", body, headers).status_code)
    assert codes[:ATTEMPTS] == [401] * ATTEMPTS and 429 in codes[ATTEMPTS:]


def test_case_54_secrets_are_kept_as_hashes_and_found_by_them(door: Door) -> None:
    """No comparison of a secret takes a time that tells of it: what is looked up is its SHA-256."""
    token = invite(door)
    with door.parts.store.reading() as tx:
        kept = {*tx.execute(select(join_tokens.c.hash)).scalars(), *tx.execute(select(api_tokens.c.hash)).scalars()}
    assert {hash_secret(token), hash_secret(door.token)} <= kept
    assert not {token, door.token} & kept
    assert all(re.fullmatch(r"[0-9a-f]{64}", row) for row in kept)


def test_failures_are_counted_by_network_and_forgotten() -> None:
    now = [0.0]
    failures = Failures(lambda: now[0])
    assert [failures.count("2001:db8::1") for _ in range(ATTEMPTS)] == [0.0] * ATTEMPTS
    assert failures.count("2001:db8::2") > 0
    assert failures.count("2001:db8:0:1::2") == 0
    now[0] += REFILL
    assert (failures.count("2001:db8::1"), failures.count("2001:db8::1") > 0) == (0.0, True)
    assert [failures.count(address) for address in ("127.0.0.1", "::1") for _ in range(99)] == [0.0] * 198
    for number in range(ADDRESSES + 10):
        failures.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert failures.count("2001:db8::1") == 0.0
