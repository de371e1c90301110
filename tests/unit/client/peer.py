"""A small HTTP server on loopback that answers as the protocol says, and can be told to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from foedus.domain.errors import ConflictError, FoedusError, IntegrityError, NotFoundError
from foedus.wire.http import to_problem

JSON = "application/json"


@dataclass
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)
    """When, in seconds of this machine."""

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Answer:
    """What is answered. After ``cut`` bytes of the body the connection breaks."""

    status: int = 200
    body: bytes = b""
    kind: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


def problem(error: FoedusError) -> Answer:
    """The error as an answer."""
    return Answer(error.http_status, to_problem(error).model_dump_json().encode(), "application/problem+json")


@dataclass
class Peer:
    """Blobs and uploads as the protocol has them; ``answers`` has the rest; ``faults`` are used up, one a request.

    A fault gets the request and the answer that would be given, after the work is done, and returns another.
    """

    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    faults: list[Callable[[Request, Answer], Answer]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[str, int, bytearray]] = field(default_factory=dict)
    log: list[Request] = field(default_factory=list)
    url: str = ""

    def handle(self, request: Request) -> Answer:
        """Do the work, then let a fault have its way."""
        self.log.append(request)
        try:
            answer = self._work(request)
        except FoedusError as error:
            answer = problem(error)
        return self.faults.pop(0)(request, answer) if self.faults else answer

    def asked(self, method: str, start: str = "") -> list[Request]:
        """The requests of this method whose path starts so."""
        return [request for request in self.log if request.method == method and request.path.startswith(start)]

    def _work(self, request: Request) -> Answer:
        kind, _, name = request.path.removeprefix("/").partition("/")
        if kind == "blobs":
            return self._blob(request, name)
        if kind == "uploads":
            return self._upload(request, name)
        answer = self.answers.get(f"{request.method} {request.path}")
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            raise NotFoundError("not_found", "There is no such thing.", "Or it is not yours.", "Look again.")
        return answer

    def _blob(self, request: Request, digest: str) -> Answer:
        if request.method == "PUT":
            return self._keep(digest, request.body)
        if digest not in self.blobs:
            raise NotFoundError("blob_missing", "There is no such blob.")
        content = self.blobs[digest]
        span = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if span is None:
            return Answer(200, content, "application/octet-stream")
        start = int(span.group(1))
        if start >= len(content):
            return problem(IntegrityError("range_refused", "There is no such range."))
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return Answer(206, content[start:], "application/octet-stream", headers)

    def _upload(self, request: Request, name: str) -> Answer:
        if request.method == "POST":
            wanted = request.json()
            self.uploads["u_1"] = (wanted["digest"], wanted["size"], bytearray())
            return self._view("u_1")
        if name not in self.uploads:
            raise NotFoundError("upload_missing", "There is no such upload.")
        digest, size, content = self.uploads[name]
        if request.method == "HEAD":
            return Answer(204, headers={"Upload-Offset": str(len(content))})
        if request.headers.get("upload-offset") != str(len(content)):
            raise ConflictError("upload_offset", "The upload is elsewhere.")
        content += request.body
        answer = self._view(name)
        if len(content) == size:
            self._keep(digest, bytes(content))
            del self.uploads[name]
        return answer

    def _view(self, name: str) -> Answer:
        digest, size, content = self.uploads[name]
        view = {"id": name, "digest": digest, "size": size, "offset": len(content), "complete": len(content) == size}
        return Answer(200, json.dumps(view).encode())

    def _keep(self, digest: str, content: bytes) -> Answer:
        if hashlib.sha256(content).hexdigest() != digest:
            raise IntegrityError("blob_corrupt", "The bytes are not the digest's.")
        self.blobs[digest] = content
        return Answer(201)


@contextmanager
def serving(peer: Peer) -> Iterator[Peer]:
    """Serve on a free port of loopback, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            path = self.path.removeprefix("/api/v1")
            answer = peer.handle(Request(self.command, path, headers, body))
            self.send_response(answer.status)
            for name, value in {"Content-Type": answer.kind, **answer.headers}.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.cut])
            self.close_connection = answer.cut is not None

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_one

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: the peer has its own log."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Connections that the client gave up are part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    peer.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
