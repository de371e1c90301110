"""A network between simulated processes: real requests of httpx to real ASGI applications, over wires that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.cluster.runtime import PROCESS, Killed, Process, Room, here

App = Callable[..., Any]
PIECE = 1 << 14
"""Bytes of a body that travel together."""


@dataclass
class Weather:
    """How bad the wires are: chances per request, and seconds."""

    lost: float = 0.0
    """That a request, or its reply, is lost: the connection breaks at once, or nobody answers."""
    cut: float = 0.0
    """That a body breaks off in the middle, on its way there or back."""
    twice: float = 0.0
    """That a request is delivered again, a while later."""
    delay: float = 0.01
    """Seconds that a way takes at most."""


@dataclass
class Server:
    """Who listens at an address: an application inside a process."""

    process: Process
    app: App


@dataclass(frozen=True)
class Reply:
    """An answer; ``broken`` where the connection broke before its end."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    broken: bool = False


@dataclass
class Network:
    """The wires of one simulation.

    ``apart`` holds processes that cannot reach anybody now, ``mute`` those that no reply reaches.
    """

    room: Room
    weather: Weather = field(default_factory=Weather)
    server: Server | None = None
    apart: set[str] = field(default_factory=set)
    mute: set[str] = field(default_factory=set)
    requests: int = 0

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Have httpx send over these wires."""
        network = self

        async def send(_: object, request: httpx.Request) -> httpx.Response:
            return await network.exchange(request, await request.aread())

        def send_blocking(_: object, request: httpx.Request) -> httpx.Response:
            process, strand = PROCESS.get(), here()
            assert process is not None
            task = process.spawn(network.exchange(request, request.read()))
            task.add_done_callback(lambda _: strand.wake())
            strand.block(None)
            response = task.result()
            response.stream = httpx.ByteStream(_whole(response.stream))
            return response

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(httpx._client, "AsyncHTTPTransport", _wire("handle_async_request", send))
            patch.setattr(httpx._client, "HTTPTransport", _wire("handle_request", send_blocking))
            yield

    async def exchange(self, request: httpx.Request, body: bytes) -> httpx.Response:
        """Carry a request there and its reply back."""
        sender, chance, weather = PROCESS.get(), self.room.chance, self.weather
        assert sender is not None
        if not sender.alive:
            raise Killed
        self.requests += 1
        what = f"{sender.name} {request.method} {request.url.path}"
        await asyncio.sleep(chance.random() * weather.delay)
        if sender.name in self.apart or chance.random() < weather.lost:
            await self._lost(request, f"{what} is lost")
        if self.server is None or not self.server.process.alive:
            raise httpx.ConnectError("nobody listens")
        sent = body[: chance.randrange(len(body))] if body and chance.random() < weather.cut else body
        serving = self._deliver(self.server, request, body, sent)
        if chance.random() < weather.twice:
            self.server.process.spawn(self._again(request, body))
        reply = await self._awaited(serving, request)
        await asyncio.sleep(chance.random() * weather.delay)
        self.room.note(f"{what} {reply.status}{' breaks off' if reply.broken or sent is not body else ''}")
        if sender.name in self.apart | self.mute or chance.random() < weather.lost:
            await self._lost(request, f"{what}: the reply is lost")
        if reply.broken or sent is not body:
            raise httpx.ReadError("the connection broke")
        cut = chance.randrange(len(reply.body)) if reply.body and chance.random() < weather.cut else None
        return httpx.Response(reply.status, headers=reply.headers, stream=_Stream(reply.body, cut))

    async def _awaited(self, serving: asyncio.Task[Reply], request: httpx.Request) -> Reply:
        """The reply, unless the server dies or the sender's patience ends."""
        await asyncio.wait([serving], timeout=_patience(request))
        if not serving.done():
            raise httpx.ReadTimeout("no reply")
        if serving.cancelled() or isinstance(serving.exception(), Killed):
            raise httpx.RemoteProtocolError("the server went away")
        return serving.result()

    async def _lost(self, request: httpx.Request, what: str) -> None:
        self.room.note(what)
        if self.room.chance.random() < 0.5:
            raise httpx.ReadError("connection reset")
        await asyncio.sleep(_patience(request))
        raise httpx.ReadTimeout("no reply")

    async def _again(self, request: httpx.Request, body: bytes) -> None:
        await asyncio.sleep(self.room.chance.random() * 5)
        if self.server is not None and self.server.process.alive:
            self.room.note(f"{request.method} {request.url.path} comes a second time")
            await asyncio.wait([self._deliver(self.server, request, body, body)])

    def _deliver(self, server: Server, request: httpx.Request, body: bytes, sent: bytes) -> asyncio.Task[Reply]:
        return server.process.spawn(_serve(server.app, request, body, sent))


def _wire(method: str, send: Callable[..., Any]) -> type:
    """A transport of httpx's that opens no socket and reads no certificates."""
    base = httpx.AsyncBaseTransport if method == "handle_async_request" else httpx.BaseTransport
    return type("Wire", (base,), {"__init__": lambda self, *args, **kwargs: None, method: send})


class _Stream(httpx.AsyncByteStream):
    """A reply's body, which may break off after ``cut`` bytes."""

    def __init__(self, body: bytes, cut: int | None) -> None:
        self.body, self.cut = body, cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        whole = self.body if self.cut is None else self.body[: self.cut]
        for start in range(0, len(whole), PIECE):
            yield whole[start : start + PIECE]
        if self.cut is not None:
            raise httpx.ReadError("the connection broke")


def _whole(stream: Any) -> bytes:
    """A person's library reads bodies at once."""
    if stream.cut is not None:
        raise httpx.ReadError("the connection broke")
    return bytes(stream.body)


def _patience(request: httpx.Request) -> float:
    return float(request.extensions.get("timeout", {}).get("read") or 60.0)


async def _serve(app: App, request: httpx.Request, body: bytes, sent: bytes) -> Reply:
    """One request through an ASGI application; a body that was cut ends with the connection."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    pieces = [sent[start : start + PIECE] for start in range(0, len(sent), PIECE)] or [b""]
    said: list[dict[str, Any]] = []
    finished = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if pieces:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces) or sent is not body}
        if sent is body:
            await finished.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            finished.set()

    await app(scope, receive, send)
    start = next((message for message in said if message["type"] == "http.response.start"), None)
    content = b"".join(message.get("body", b"") for message in said if message["type"] == "http.response.body")
    if start is None or not finished.is_set():
        return Reply(0, [], b"", broken=True)
    return Reply(start["status"], list(start["headers"]), b"" if request.method == "HEAD" else content)
