"""Case 45: what the coordinator sends where others point it goes to public addresses, and nowhere else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from foedus.coordinator.outbound import Rules, judge, send
from foedus.domain.errors import ForbiddenError, UnreachableError

TRUSTED = Rules(trusted=frozenset({"127.0.0.1", "localhost", "login.example.org"}), limit=10_000, seconds=60.0)
HURRIED = replace(TRUSTED, seconds=1.0)


class Handler(BaseHTTPRequestHandler):
    """Says where it was asked for; redirects, is endless or slow where the path says so."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/secret")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/endless":
            self.wfile.write(bytes(20_000))
        elif self.path == "/slow":
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        else:
            self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    found = HTTPServer(("127.0.0.1", 0), Handler)
    found.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%lo",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::1",
    ],
)
def test_case_45_a_name_that_leads_inside_is_refused(address: str) -> None:
    with pytest.raises(ForbiddenError) as refused:
        judge(Rules(), httpx.URL("https://hooks.example.org/x"), lambda host, port: ["93.184.216.34", address])
    assert refused.value.code == "target_refused"
    assert address not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "file:///etc/passwd",
        "ftp://hooks.example.org/",
        "gopher://hooks.example.org/",
        "https://somebody:secret@hooks.example.org/",
        "https:///nowhere",
    ],
)
def test_case_45_only_https_without_a_password(url: str) -> None:
    with pytest.raises(ForbiddenError):
        judge(Rules(), httpx.URL(url), lambda host, port: ["93.184.216.34"])


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "localhost", "017700000001"])
def test_case_45_this_machine_is_refused_however_it_is_written(host: str) -> None:
    with pytest.raises((ForbiddenError, UnreachableError)):
        send(Rules(), httpx.Request("GET", f"https://{host}/"))


def test_case_45_clouds_metadata_is_refused_though_the_host_is_trusted() -> None:
    with pytest.raises(ForbiddenError):
        judge(TRUSTED, httpx.URL("https://login.example.org/"), lambda host, port: ["169.254.169.254"])
    assert judge(TRUSTED, httpx.URL("https://login.example.org/"), lambda host, port: ["10.0.0.7"]) == "10.0.0.7"


def test_case_45_a_name_is_resolved_once_and_the_address_that_was_judged_is_asked(server: HTTPServer) -> None:
    """DNS rebinding: the second answer would lead elsewhere, and is never asked for."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    request = httpx.Request("GET", f"http://localhost:{server.server_port}/here")
    reply = send(TRUSTED, request, lambda host, port: answers.pop(0))
    assert (reply.status, reply.content) == (200, b"hello")
    assert len(answers) == 1
    assert server.asked == [("/here", f"localhost:{server.server_port}")]  # type: ignore[attr-defined]


def test_case_45_a_redirect_is_not_followed(server: HTTPServer) -> None:
    reply = send(TRUSTED, httpx.Request("GET", f"http://127.0.0.1:{server.server_port}/redirect"))
    assert reply.status == 302
    assert [path for path, _ in server.asked] == ["/redirect"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rules", "path", "why"), [(TRUSTED, "/endless", "longer than 10000 bytes"), (HURRIED, "/slow", "too long")]
)
def test_a_reply_has_limits(server: HTTPServer, rules: Rules, path: str, why: str) -> None:
    with pytest.raises(UnreachableError) as refused:
        send(rules, httpx.Request("GET", f"http://127.0.0.1:{server.server_port}{path}"))
    assert why in refused.value.why


def test_nobody_there_is_unreachable() -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(UnreachableError):
        send(Rules(), httpx.Request("GET", "https://nowhere.example.org/"), nowhere)
