"""Blobs over HTTP: whole, in ranges, resumed; nobody reads what is not theirs, and lies leave nothing behind."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import insert, select

from foedus.store.tables import assignments, blobs, phases, uploads
from foedus.wire.signing import Signer
from tests.unit.coordinator.door import API, Door, code, opened
from tests.unit.coordinator.scene import until

CONTENT = bytes(range(256)) * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LIMIT = 100_000


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """A coordinator whose blobs have at most 100,000 bytes."""
    with opened(tmp_path, blob_limit=LIMIT) as door:
        yield door


def _put(door: Door, content: bytes = CONTENT) -> str:
    digest = hashlib.sha256(content).hexdigest()
    reply = door.ask("PUT", f"/blobs/{digest}", content=content)
    assert reply.status_code == 201
    return digest


def test_a_blob_comes_back_as_it_went(door: Door) -> None:
    _put(door)
    _put(door)
    reply = door.ask("GET", f"/blobs/{DIGEST}")
    assert (reply.status_code, reply.content, reply.headers["etag"]) == (200, CONTENT, f'"{DIGEST}"')
    head = door.ask("HEAD", f"/blobs/{DIGEST}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "25600", b"")


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=100-199", 206, 100, 200),
        ("bytes=25000-", 206, 25000, 25600),
        ("bytes=25599-99999999", 206, 25599, 25600),
        ("bytes=-5", 200, 0, 25600),
        ("bytes=0-1,3-4", 200, 0, 25600),
        ("lines=0-1", 200, 0, 25600),
    ],
)
def test_ranges(asked: str, status: int, start: int, stop: int, door: Door) -> None:
    _put(door)
    reply = door.ask("GET", f"/blobs/{DIGEST}", headers={"Range": asked})
    assert (reply.status_code, reply.content) == (status, CONTENT[start:stop])
    expected = f"bytes {start}-{stop - 1}/25600" if status == 206 else None
    assert reply.headers.get("content-range") == expected


@pytest.mark.parametrize("asked", ["bytes=25600-", "bytes=5-4", "bytes=9999999999999999999-"])
def test_ranges_that_are_not_there(asked: str, door: Door) -> None:
    _put(door)
    reply = door.ask("GET", f"/blobs/{DIGEST}", headers={"Range": asked})
    assert (reply.status_code, reply.headers["content-range"]) == (416, "bytes */25600")


def test_bytes_under_a_wrong_name_are_refused_and_gone(door: Door) -> None:
    reply = door.ask("PUT", f"/blobs/{DIGEST}", content=CONTENT[:-1])
    assert (reply.status_code, code(reply)) == (422, "digest_mismatch")
    assert door.files() == []
    assert code(door.ask("GET", f"/blobs/{DIGEST}")) == "blob_unknown"


@pytest.mark.parametrize("name", ["a" * 63, "A" * 64, "..%2f..%2fetc%2fpasswd", "a" * 5000, "%00" * 64])
def test_names_that_are_no_digests_are_refused(name: str, door: Door) -> None:
    for method in ("GET", "PUT"):
        assert code(door.ask(method, f"/blobs/{name}")) in {"digest_malformed", "http_404", "http_405"}
    assert door.files() == []


def test_a_blob_over_the_limit_is_refused_and_gone(door: Door) -> None:
    large = bytes(LIMIT + 1)
    reply = door.ask("PUT", f"/blobs/{hashlib.sha256(large).hexdigest()}", content=iter([large[:LIMIT], b"\0"]))
    assert (reply.status_code, code(reply)) == (413, "body_too_large")
    reply = door.ask("POST", "/uploads", json={"digest": DIGEST, "size": LIMIT + 1})
    assert (reply.status_code, code(reply)) == (413, "blob_too_large")
    assert door.files() == []


def _broken(connection: socket.socket, door: Door, head: str, body: bytes) -> None:
    """Send a head that promises more than the body, and hang up."""
    lines = f"{head}\r\nHost: x\r\nAuthorization: Bearer {door.token}\r\n\r\n"
    connection.sendall(lines.encode() + body)


def _connect(door: Door) -> socket.socket:
    address = urlsplit(door.url)
    return socket.create_connection((address.hostname, address.port), timeout=120)


def test_a_connection_that_breaks_leaves_nothing_of_a_whole_blob(door: Door) -> None:
    """Case 1: what has come is never visible, and is gone; the same blob can be brought afterwards."""
    path = f"/blobs/{DIGEST}"
    with _connect(door) as connection:
        _broken(connection, door, f"PUT {API}{path} HTTP/1.1\r\nContent-Length: 25600", CONTENT[:9000])
        until(lambda: door.files() != [])
        assert door.ask("GET", path).status_code == door.ask("HEAD", path).status_code == 404
    until(lambda: door.files() == [])
    assert door.ask("GET", path).status_code == 404
    with door.parts.store.reading() as tx:
        assert tx.execute(select(blobs.c.digest)).all() == tx.execute(select(uploads.c.id)).all() == []
    assert door.ask("PUT", path, content=CONTENT).status_code == 201
    assert door.ask("GET", path).content == CONTENT
    assert len(door.files()) == 1


def _begin(door: Door, content: bytes = CONTENT) -> str:
    command = {"digest": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return str(door.ask("POST", "/uploads", json=command).json()["id"])


def _patch(door: Door, upload: str, offset: object, chunk: bytes) -> httpx.Response:
    return door.ask("PATCH", f"/uploads/{upload}", headers={"Upload-Offset": str(offset)}, content=chunk)


def _offset(door: Door, upload: str) -> int:
    return int(door.ask("HEAD", f"/uploads/{upload}").headers["upload-offset"])


def test_an_upload_is_resumed_where_the_connection_broke(door: Door) -> None:
    upload = _begin(door)
    with _connect(door) as connection:
        head = f"PATCH {API}/uploads/{upload} HTTP/1.1\r\nUpload-Offset: 0\r\nContent-Length: 25600"
        _broken(connection, door, head, CONTENT[:9000])
        until(lambda: door.files() != [])
    until(lambda: _offset(door, upload) == 9000)
    assert _begin(door) == upload
    reply = _patch(door, upload, 9000, CONTENT[9000:])
    assert reply.json() == {"id": upload, "digest": DIGEST, "size": 25600, "offset": 25600, "complete": True}
    assert door.ask("GET", f"/blobs/{DIGEST}").content == CONTENT
    assert _patch(door, upload, 0, b"more").json()["complete"] is True
    assert _offset(door, upload) == 25600


def test_case_2_a_request_that_hangs_neither_holds_up_the_next_nor_writes_after_it(door: Door) -> None:
    upload = _begin(door)
    with _connect(door) as connection:
        head = f"PATCH {API}/uploads/{upload} HTTP/1.1\r\nUpload-Offset: 0\r\nContent-Length: 25600"
        _broken(connection, door, head, CONTENT[:9000])
        until(lambda: door.files() != [])
        assert _patch(door, upload, 0, CONTENT).json()["complete"] is True
        connection.sendall(b"\0" * 16_600)
        assert b"upload_unknown" in (reply := connection.recv(65536)) or b"upload_offset" in reply
    until(lambda: len(door.files()) == 1)
    assert door.ask("GET", f"/blobs/{DIGEST}").content == CONTENT


def test_a_chunk_elsewhere_or_too_long_is_refused_and_nothing_is_lost(door: Door) -> None:
    upload = _begin(door)
    assert _patch(door, upload, 0, CONTENT[:1000]).json()["offset"] == 1000
    for offset in (0, 999, 1001, 2**62):
        reply = _patch(door, upload, offset, CONTENT[1000:])
        assert (reply.status_code, code(reply)) == (409, "upload_offset")
        assert "1000" in reply.json()["fix"]
    for offset in ("", "-1", "1e3", "٣", "9" * 30):
        headers = {"Upload-Offset": offset.encode()}
        assert code(door.ask("PATCH", f"/uploads/{upload}", headers=headers)) == "upload_offset_missing"
    reply = _patch(door, upload, 1000, CONTENT[1000:] + b"x")
    assert (reply.status_code, code(reply)) == (413, "body_too_large")
    assert _offset(door, upload) == 1000
    assert _patch(door, upload, 1000, CONTENT[1000:]).json()["complete"] is True


def test_an_upload_whose_bytes_lie_begins_anew(door: Door) -> None:
    upload = _begin(door)
    reply = _patch(door, upload, 0, CONTENT[:-1] + b"x")
    assert (reply.status_code, code(reply)) == (422, "digest_mismatch")
    assert (door.ask("HEAD", f"/uploads/{upload}").status_code, door.files()) == (404, [])
    assert _patch(door, _begin(door), 0, CONTENT).json()["complete"] is True


def test_an_empty_blob(door: Door) -> None:
    upload = _begin(door, b"")
    assert _patch(door, upload, 0, b"").json()["complete"] is True
    assert door.ask("GET", f"/blobs/{hashlib.sha256(b'').hexdigest()}").content == b""


def test_an_upload_belongs_to_who_began_it(door: Door) -> None:
    upload, node = _begin(door), door.enrol("clinic-a")
    for method in ("HEAD", "PATCH"):
        reply = door.signed(node, method, f"/uploads/{upload}", headers={"Upload-Offset": "0"})
        assert reply.status_code == 404
    for name in ("up_unknown", "..", "up_" + "a" * 5000):
        assert door.ask("HEAD", f"/uploads/{name}").status_code == 404


def test_a_nodes_chunk_that_it_did_not_sign_is_taken_back(door: Door) -> None:
    node = door.enrol("clinic-a")
    body = b'{"digest": "%s", "size": 25600}' % DIGEST.encode()
    upload = door.signed(node, "POST", "/uploads", body).json()["id"]
    path = f"/uploads/{upload}"
    headers = door.signature(node, "PATCH", path, CONTENT[:1000], {"Upload-Offset": "0"})
    assert code(door.send("PATCH", path, CONTENT[1000:2000], headers)) == "body_mismatch"
    headers = door.signature(node, "PATCH", path, CONTENT[:1000], {"Upload-Offset": "0"})
    reply = door.send("PATCH", path, CONTENT[:1000], {**headers, "Upload-Offset": "5"})
    assert code(reply) == "signature_invalid"
    assert door.signed(node, "HEAD", path).headers["upload-offset"] == "0"
    assert door.signed(node, "PATCH", path, CONTENT, {"Upload-Offset": "0"}).json()["complete"] is True


def test_a_nodes_blob_has_to_be_the_one_that_it_signed(door: Door) -> None:
    node, path = door.enrol("clinic-a"), f"/blobs/{DIGEST}"
    headers = door.signature(node, "PUT", path, b"other")
    assert code(door.send("PUT", path, CONTENT, headers)) == "body_mismatch"
    assert door.files() == []
    assert door.signed(node, "PUT", path, CONTENT).status_code == 201


def _ask_of(door: Door, node: Signer, status: str) -> None:
    """A phase whose broadcast is the blob, of which this node was asked."""
    key = {"run_id": "run_1", "round": 1, "phase": "train", "attempt": 0}
    phase = {"clients": ["c0000"], "status": status, "opened_at": 0.0, "broadcast": {"model": DIGEST}}
    with door.parts.store.transaction("t") as tx:
        tx.execute(insert(phases).values(**key, **phase))
        row = {"id": "as_1", "client": "c0000", "node_id": node.key_id, "status": "leased"}
        tx.execute(insert(assignments).values(**key, **row))


@pytest.mark.parametrize(("status", "expected"), [("open", 200), ("closed", 404)])
def test_a_node_reads_the_broadcast_that_it_was_asked_to_work_on(status: str, expected: int, door: Door) -> None:
    asked, other = door.enrol("clinic-a"), door.enrol("clinic-b")
    _put(door)
    _ask_of(door, asked, status)
    assert door.signed(asked, "GET", f"/blobs/{DIGEST}").status_code == expected
    for method in ("GET", "HEAD"):
        assert door.signed(other, method, f"/blobs/{DIGEST}").status_code == 404


def test_what_is_not_theirs_and_what_is_not_there_are_told_alike(door: Door) -> None:
    """A node's own update, too, is only written and never read."""
    node = door.enrol("clinic-a")
    assert door.signed(node, "PUT", f"/blobs/{DIGEST}", CONTENT).status_code == 201
    mine = door.signed(node, "GET", f"/blobs/{DIGEST}")
    missing = door.signed(node, "GET", "/blobs/" + "0" * 64)
    assert (code(mine), mine.status_code) == (code(missing), missing.status_code) == ("blob_unknown", 404)


def test_nobody_reads_or_writes_without_a_name(door: Door) -> None:
    _put(door)
    for method, path in (("GET", f"/blobs/{DIGEST}"), ("PUT", f"/blobs/{DIGEST}"), ("POST", "/uploads")):
        assert code(door.send(method, path, b"", {})) == "signature_missing"


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "send",
    [
        lambda door: door.ask("PUT", f"/blobs/{DIGEST}", content=CONTENT),
        lambda door: _patch(door, _begin(door), 0, CONTENT),
    ],
    ids=["whole", "resumable"],
)
def test_a_full_disk_is_told_and_the_blob_can_be_sent_again(
    send: Callable[[Door], httpx.Response], door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("foedus.store.shelves._sync", _full)
        reply = send(door)
    assert (reply.status_code, code(reply)) == (507, "disk_full")
    assert code(door.ask("GET", f"/blobs/{DIGEST}")) == "blob_unknown"
    _put(door)
    assert door.ask("GET", f"/blobs/{DIGEST}").content == CONTENT


def test_a_large_blob_is_streamed_and_many_connections_read_it(tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 8
    with opened(tmp_path) as door:
        digest = _put(door, content)
        with closing(httpx.Client(trust_env=False)) as other:
            headers = {"Authorization": f"Bearer {door.token}"}
            with other.stream("GET", f"{door.url}{API}/blobs/{digest}", headers=headers) as reply:
                pieces = reply.iter_raw(1 << 16)
                first = next(pieces)
                assert door.ask("GET", f"/blobs/{digest}", headers={"Range": "bytes=1-2"}).content == content[1:3]
                assert first + b"".join(pieces) == content


def test_a_quota_bounds_unfinished_uploads_and_stored_bytes(tmp_path: Path) -> None:
    """Each actor has its own share; what was brought before is not counted twice."""
    with opened(tmp_path, quota_uploads=2, quota_bytes=60_000) as door:
        node = door.enrol("clinic-a")
        for number in range(2):
            _begin(door, b"%d" % number)
        command = {"digest": DIGEST, "size": len(CONTENT)}
        reply = door.ask("POST", "/uploads", json=command)
        assert (reply.status_code, code(reply)) == (507, "quota_uploads")
        for _ in range(2):
            _put(door)
        other = hashlib.sha256(bytes(40_000)).hexdigest()
        reply = door.ask("PUT", f"/blobs/{other}", content=bytes(40_000))
        assert (reply.status_code, code(reply)) == (507, "quota_bytes")
        reply = door.ask("PUT", f"/blobs/{other}", content=iter([bytes(40_000)]))
        assert (reply.status_code, code(reply)) == (507, "quota_bytes")
        body = b'{"digest": "%s", "size": 70000}' % DIGEST.encode()
        refused = door.signed(node, "POST", "/uploads", body)
        assert (refused.status_code, code(refused)) == (507, "quota_bytes")
        assert door.signed(node, "PUT", f"/blobs/{DIGEST}", CONTENT).status_code == 201
