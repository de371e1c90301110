"""What a stranger sends before anybody knows who asks is bounded, by the whole coordinator as it is served."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from foedus.coordinator.protocol import HEAD_LIMIT
from tests.unit.coordinator.door import API, Door
from tests.unit.coordinator.test_app import served

PIECE = 16 << 10
ENDLESS = {
    "a target": (b"GET /", b"a" * PIECE),
    "a header": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * PIECE),
    "headers": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n" * (PIECE // 8)),
    "trailers": (
        f"POST {API}/node/join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n".encode(),
        b"X-A: b\r\n" * (PIECE // 8),
    ),
    "a chunk's extension": (
        f"POST {API}/node/join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a=".encode(),
        b"a" * PIECE,
    ),
}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with served(tmp_path_factory.mktemp("coordinator")) as (_, door):
        yield door


def _sent(door: Door, start: bytes, more: bytes) -> tuple[int, bytes]:
    """How many bytes are taken before the coordinator answers, and the answer."""
    address = urlsplit(door.url)
    with socket.create_connection((address.hostname, address.port), timeout=120) as connection:
        connection.sendall(start)
        for count in range(100):
            connection.sendall(more)
            # What is too much is answered in the end; before, a little is waited for an answer that comes soon.
            connection.settimeout(120 if (count + 2) * len(more) > HEAD_LIMIT + 2 * PIECE else 0.2)
            try:
                return (count + 1) * len(more), connection.recv(65536)
            except TimeoutError:
                continue
    raise AssertionError("it took everything")


@pytest.mark.parametrize("case", ENDLESS.keys())
def test_what_goes_on_and_on_is_refused_soon_and_others_are_served(case: str, door: Door) -> None:
    size, answer = _sent(door, *ENDLESS[case])
    assert size <= HEAD_LIMIT + 2 * PIECE
    assert answer.split(b"\r\n")[0].split(b" ", 1)[1] == b"431 Request Header Fields Too Large"
    assert b'"code":"head_too_large"' in answer
    assert door.client.get(f"{door.url}/healthz").status_code == 200


def test_large_bodies_and_usual_headers_pass(door: Door) -> None:
    content = bytes(3 << 20)
    headers = {f"X-{number}": "a" * 500 for number in range(50)}
    digest = "bc4a9fde0a9b5d64d2eb0c0ba0f1c5cfc5bd4ac6d0d4d4f3b2f0c9fae0b7a3a1"
    reply = door.ask("PUT", f"/blobs/{digest}", content=content, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (422, "digest_mismatch")


@pytest.mark.parametrize("path", ["/runs/", "//evil.example/..", "/blobs/%2e%2e%2f"])
def test_nobody_is_sent_elsewhere_by_the_host_that_they_name(path: str, door: Door) -> None:
    reply = door.ask("GET", path, headers={"Host": "evil.example"})
    assert (reply.status_code, reply.headers.get("location")) == (404, None)
