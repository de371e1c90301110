"""Somebody's HTTP server that takes webhooks, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from foedus.wire.events import RunEvent


@dataclass
class Receiver:
    """What came, and the statuses that it answers with, the last one for ever."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def events(self) -> list[RunEvent]:
        """The events that came."""
        return [RunEvent.model_validate_json(body) for _, body in self.came]

    @property
    def kinds(self) -> list[str]:
        """Their kinds."""
        return [event.kind for event in self.events]

    @property
    def ids(self) -> list[str]:
        """The deliveries' ids."""
        return [headers["webhook-id"] for headers, _ in self.came]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens on this machine."""
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = made.answers.pop(0) if len(made.answers) > 1 else made.answers[0]
            self.send_response(status)
            self.send_header("Location", f"{made.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=lambda: server.serve_forever(0.02))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()
