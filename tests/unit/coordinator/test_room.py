"""Case 14: who holds connections open, or trickles, keeps nobody out; by the whole coordinator, and by its protocol."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
import uvicorn

from foedus.coordinator.measures import TURNED_AWAY
from foedus.coordinator.protocol import BoundedHttp, Pace, Room
from tests.unit.coordinator.door import API, BOOT, Door
from tests.unit.coordinator.scene import until
from tests.unit.coordinator.test_app import SERVE

IDLE = b""
HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "
HALF_A_BODY = f"POST {API}/node/join HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{{".encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
FILES = 400
"""Files that the coordinator of the test may open, in place of some hundred thousand."""


@contextmanager
def _served(folder: Path, soft: int, hard: int) -> Iterator[tuple[subprocess.Popen[str], Door]]:
    """A coordinator in a process of its own that may open so many files."""
    limited = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n{SERVE}"
    with subprocess.Popen([sys.executable, "-c", limited, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, token = process.stdout.readline().split()
        door = Door(url, None, token)
        try:
            yield process, door
        finally:
            door.client.close()
            process.kill()


def _connect(url: str, said: bytes) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=120)
    connection.sendall(said)
    return connection


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with _served(tmp_path, 200, hard) as (process, _):
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (min(hard, 1 << 17), hard)


def _attack(door: Door, count: int) -> None:
    """So many connections of three kinds; meanwhile a node and a person are served."""
    node = door.enrol("clinic-a")
    assert door.signed(node, "POST", "/node/hello", json.dumps({"boot": BOOT, "version": "0"}).encode()).is_success
    with ExitStack() as stack:
        for at in range(count):
            stack.enter_context(_connect(door.url, (IDLE, HALF_A_HEAD, HALF_A_BODY)[at % 3]))
        assert httpx.get(f"{door.url}/healthz", timeout=120, trust_env=False).json() == {"status": "ok"}
        poll = json.dumps({"boot": BOOT, "wait": 0}).encode()
        assert door.signed(node, "POST", "/node/poll", poll).status_code == 200
        assert door.ask("GET", "/nodes").status_code == 200
        metrics = httpx.get(f"{door.url}/metrics", timeout=120, trust_env=False).text
    assert 'foedus_connections_closed_total{reason="idle"}' in metrics


def test_case_14_a_thousand_connections_that_say_nothing_or_half_of_it_keep_nobody_out(tmp_path: Path) -> None:
    """Case 14: fd exhaustion, 1,000 idle connections, slowloris heads and bodies: others still served."""
    with _served(tmp_path, FILES, FILES) as (process, door):
        _attack(door, 1000)
        assert psutil.Process(process.pid).num_fds() < FILES


@pytest.mark.soak
def test_case_14_health_answers_within_two_seconds_all_the_while(tmp_path: Path) -> None:
    """I10: the server answers /healthz within 2 s during the attack; connections that stall are closed in time."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with _served(tmp_path, hard, hard) as (_, door), ExitStack() as stack:
        connections = [
            stack.enter_context(_connect(door.url, (IDLE, HALF_A_HEAD, HALF_A_BODY)[at % 3])) for at in range(3000)
        ]
        end = time.monotonic() + 40
        while time.monotonic() < end:
            began = time.monotonic()
            with _connect(door.url, HEALTH) as connection:
                assert b'"ok"' in _closed_with(connection)
            assert time.monotonic() - began < 2
            time.sleep(0.5)
        for connection in connections:
            connection.settimeout(5)
            assert b" 408 " in connection.recv(100)


async def _app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Reads the body, then answers; /slow when it is told to, /large with more than anybody reads."""
    if scope["type"] != "http":
        return
    ASKED.append(scope["path"])
    while (await receive()).get("more_body"):
        pass
    while scope["path"] == "/slow" and not ENOUGH.is_set():
        await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    count = 500 if scope["path"] == "/large" else 1
    for at in range(count):
        await send({"type": "http.response.body", "body": b"x" * (1 << 16), "more_body": at + 1 < count})


ENOUGH = threading.Event()
"""Whether /slow is to answer."""

ASKED: list[str] = []
"""What the application was asked for."""


@contextmanager
def _listening(room: Room) -> Iterator[str]:
    """The protocol alone, with another application behind it."""
    ENOUGH.clear()
    ASKED.clear()
    http = partial(BoundedHttp, room=room)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(_app, http=http, log_config=None, lifespan="off")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ENOUGH.set()
        server.should_exit = server.force_exit = True
        thread.join(120)


def _closed_with(connection: socket.socket) -> bytes:
    connection.settimeout(120)
    received = b""
    while piece := connection.recv(1 << 20):
        received += piece
    return received


@pytest.mark.parametrize(
    ("said", "code"), [(IDLE, b"head_too_slow"), (HALF_A_HEAD, b"head_too_slow"), (HALF_A_BODY, b"body_too_slow")]
)
def test_case_14_who_does_not_go_on_is_told_and_closed(said: bytes, code: bytes) -> None:
    with _listening(Room(100, Pace(head=0.3, body=0.3))) as url, _connect(url, said) as connection:
        answer = _closed_with(connection)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert code in answer


def test_case_14_who_trickles_is_closed_and_who_goes_on_slowly_is_not() -> None:
    with _listening(Room(100, Pace(head=60, body=2.5, least=10))) as url:
        with _connect(url, HALF_A_BODY) as connection:
            for _ in range(2):
                time.sleep(0.2)
                connection.sendall(b"a")
            assert b"body_too_slow" in _closed_with(connection)
        head = b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 40\r\n\r\n"
        with _connect(url, head) as connection:
            for _ in range(4):  # for longer than the pace, and often within it
                time.sleep(0.8)
                connection.sendall(b"a" * 10)
            assert b" 200 " in _closed_with(connection).split(b"\r\n")[0]


def test_case_14_who_does_not_read_the_answer_is_closed() -> None:
    asked = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
    was = TURNED_AWAY.labels("slow_reader")._value.get()
    with _listening(Room(100, Pace(reply=0.3))) as url, _connect(url, asked) as connection:
        until(lambda: TURNED_AWAY.labels("slow_reader")._value.get() > was)
        received = 0
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 20):
                received += len(piece)
    assert received < 500 << 16


def test_the_connection_longest_without_news_makes_room_and_who_is_being_served_does_not() -> None:
    with _listening(room := Room(3)) as url, ExitStack() as stack:
        served_ = stack.enter_context(_connect(url, b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        until(lambda: len(ASKED) == 1)
        older = stack.enter_context(_connect(url, HALF_A_BODY))
        until(lambda: len(ASKED) == 2)
        newer = stack.enter_context(_connect(url, IDLE))
        until(lambda: len(room.waiting) == 2)
        assert httpx.get(f"{url}/x", trust_env=False, timeout=120).status_code == 200
        assert _closed_with(older) == b""
        ENOUGH.set()
        assert b" 200 " in _closed_with(served_)
        newer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 " in _closed_with(newer)


def test_where_everybody_is_being_served_a_newcomer_is_told_to_come_back() -> None:
    with _listening(Room(2)) as url, ExitStack() as stack:
        asked = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        busy = [stack.enter_context(_connect(url, asked)) for _ in range(2)]
        until(lambda: len(ASKED) == 2)
        answer = _closed_with(stack.enter_context(_connect(url, IDLE)))
        ENOUGH.set()
        assert b" 503 " in answer and b"retry-after: " in answer and b"connections_full" in answer
        assert all(b" 200 " in _closed_with(connection) for connection in busy)
