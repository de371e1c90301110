"""A real coordinator behind a real port of this machine, and somebody who knows how to knock."""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvicorn

from foedus.coordinator.app import create_app, open_coordinator
from foedus.coordinator.context import Context
from foedus.coordinator.settings import Settings
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import RequestHead, Signer, sign
from tests.postgres import usual_database

API = "/api/v1"
BOOT = "boot-0001"


@dataclass
class Door:
    """The coordinator's address, its parts where it is in this process, and the admin's token."""

    url: str
    inside: Context | None
    token: str
    client: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=120.0))

    @property
    def parts(self) -> Context:
        """The coordinator's parts."""
        assert self.inside is not None
        return self.inside

    def ask(self, method: str, path: str, *, token: str | None = None, **request: Any) -> httpx.Response:
        """A person's request."""
        headers = {"Authorization": f"Bearer {token or self.token}", **request.pop("headers", {})}
        return self.client.request(method, self.url + API + path, headers=headers, **request)

    def write(self, path: str, body: Any, token: str | None = None) -> Any:
        """A person's POST that succeeds, with a key of its own; the reply."""
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        reply = self.ask("POST", path, token=token, json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def user(self, name: str, *roles: str, org: str | None = None, actions: tuple[str, ...] = ()) -> str:
        """The token of a new user with these roles."""
        made = self.write("/users", {"name": name, "roles": roles, "org": org})
        return str(self.write("/tokens", {"name": "test", "user": made["id"], "actions": actions})["token"])

    def signed(
        self, signer: Signer, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """A node's request."""
        return self.send(method, path, body, self.signature(signer, method, path, body, headers))

    def signature(
        self, signer: Signer, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """The headers of a node's request."""
        head = RequestHead(method, API + path, "", headers or {})
        return {**(headers or {}), **sign(signer, head, hashlib.sha256(body).digest(), time.time())}

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """A request as it stands."""
        return self.client.request(method, self.url + API + path, content=body, headers=dict(headers))

    def enrol(self, name: str) -> Signer:
        """A node that has joined."""
        key = generate_key()
        reply = self.join(Signer(public_key(key), key), name)
        assert reply.status_code == 200, reply.text
        return Signer(reply.json()["node"], key)

    def join(self, signer: Signer, name: str, **changes: Any) -> httpx.Response:
        """A node's wish to join, with a token of its own."""
        token = self.ask("POST", "/join-tokens").json()["token"]
        command = {"token": token, "name": name, "public_key": public_key(signer.private), **changes}
        return self.signed(signer, "POST", "/node/join", httpx.Request("POST", self.url, json=command).read())

    def raw(self, text: bytes) -> bytes:
        """Bytes as they stand, in a connection of their own; what comes back until it is closed."""
        address = urlsplit(self.url)
        with socket.create_connection((address.hostname, address.port), timeout=120) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            received = bytearray()
            while piece := connection.recv(65536):
                received += piece
        return bytes(received)

    def files(self) -> list[str]:
        """Every file of the blobs' folders."""
        folders = [self.parts.settings.folder / name for name in ("blobs", "partial")]
        return sorted(path.name for folder in folders for path in folder.rglob("*") if path.is_file())


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[Door]:
    """A coordinator that listens, until the block ends."""
    database = {"database": usual_database(folder), "migrate": True}
    found = open_coordinator(Settings(folder, **(database | settings)))
    parts = found.context
    listener = socket.create_server(("127.0.0.1", found.context.settings.port if "port" in settings else 0))
    config = uvicorn.Config(create_app(parts), log_config=None, timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    door = Door(f"http://127.0.0.1:{listener.getsockname()[1]}", parts, found.admin.token if found.admin else "")
    try:
        yield door
    finally:
        door.client.close()
        parts.live.bells.close()
        server.should_exit = True
        thread.join(120)
        listener.close()
        parts.store.close()
        if found.lock is not None:
            found.lock.close()
    assert not thread.is_alive()


def code(reply: httpx.Response) -> str:
    """The code of a problem; it must be one."""
    assert reply.headers["content-type"] == "application/problem+json", reply.text
    problem = reply.json()
    assert problem["status"] == reply.status_code
    return str(problem["code"])
