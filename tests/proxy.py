"""A TCP proxy that fails on purpose: latency, stalls, resets, half-open connections, narrow links, repeated requests.

It stands between real processes, in a thread of the test. What befalls a connection is drawn from a seed when it is
opened; a proxy knows no HTTP, but for the end of a head, from which on it may send a request again.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE = 1 << 12
"""Bytes that are passed on at once, at most."""

RESUMED = re.compile(rb"\r\nrange: bytes=[1-9]|\r\nupload-offset: [1-9]", re.IGNORECASE)


@dataclass
class Trouble:
    """What may befall a connection: chances of each, and how slow it is. May be changed while the proxy runs."""

    latency: float = 0.0
    """Seconds that a way takes, in each direction."""
    rate: float = 0.0
    """Bytes per second in each direction; 0 for no limit."""
    up: float = 0.0
    """Bytes per second from clients to the target, where that is another rate."""
    reset: float = 0.0
    """That it is reset after some bytes."""
    half_open: float = 0.0
    """That after some bytes nothing comes through any more, and nobody is told."""
    stall: float = 0.0
    """That it stops for ``pause`` seconds after some bytes, and then goes on."""
    twice: float = 0.0
    """That its first request is sent again on another connection, once it is over."""
    pause: float = 5.0
    within: int = 20_000
    """Bytes after which one of these comes, at most."""


@dataclass
class Tally:
    """What the proxy has done."""

    connections: int = 0
    resets: int = 0
    half_open: int = 0
    stalls: int = 0
    twice: int = 0
    resumed: int = 0
    """Requests that went on in the middle of a body."""
    passed: int = 0
    """Bytes."""


@dataclass
class Fate:
    """What is to befall one connection, after ``left`` more bytes."""

    kind: str
    left: int
    met: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Proxy:
    """Between clients and ``127.0.0.1:target``. Make it with :func:`proxied`."""

    target: int
    seed: int = 0
    trouble: Trouble = field(default_factory=Trouble)
    tally: Tally = field(default_factory=Tally)
    port: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Pass connections on until ``stop`` is set."""
        server = await asyncio.start_server(self._accept, sock=listener)
        await stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tally.connections += 1
        fate, kept = Fate(*self._draw()), bytearray()
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self.target)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
            return
        ways = [
            asyncio.create_task(self._pass(reader, downstream, fate, kept)),
            asyncio.create_task(self._pass(upstream, writer, fate, None)),
        ]
        met = asyncio.create_task(fate.met.wait())
        try:
            await asyncio.wait([*ways, met], return_when=asyncio.FIRST_COMPLETED)
            if fate.kind == "reset" and fate.met.is_set():
                self.tally.resets += 1
                _reset(writer)
            elif not (fate.kind == "half_open" and fate.met.is_set()):
                await asyncio.wait(ways, timeout=5 + 4 * self.trouble.latency)
            else:
                self.tally.half_open += 1
                await asyncio.sleep(3600)  # nobody is told; who waits has to lose patience
        finally:
            for each in (*ways, met):
                each.cancel()
            for end in (downstream, writer):
                end.close()
                with suppress(OSError, asyncio.CancelledError):
                    await end.wait_closed()
        if fate.kind == "twice" and kept:
            await self._again(bytes(kept))

    def _draw(self) -> tuple[str, int]:
        chances = {name: getattr(self.trouble, name) for name in ("reset", "half_open", "stall", "twice")}
        drawn, kind = self._chance.random(), "none"
        for name, chance in chances.items():
            if drawn < chance:
                kind = name
                break
            drawn -= chance
        return kind, self._chance.randrange(1, self.trouble.within)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fate: Fate, kept: bytearray | None
    ) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while piece := await reader.read(PIECE):
                if kept is not None:
                    self.tally.resumed += len(RESUMED.findall(piece))
                    kept += piece if len(kept) < 1 << 20 else b""
                await self._befall(fate, len(piece))
                rate = (kept is not None and self.trouble.up) or self.trouble.rate
                await asyncio.sleep(self.trouble.latency + (len(piece) / rate if rate else 0))
                self.tally.passed += len(piece)
                writer.write(piece)
                await writer.drain()
            with suppress(OSError):
                writer.write_eof()

    async def _befall(self, fate: Fate, count: int) -> None:
        fate.left -= count
        if fate.left > 0 or fate.met.is_set():
            if fate.met.is_set() and fate.kind in ("reset", "half_open"):
                await asyncio.sleep(3600)
            return
        if fate.kind in ("reset", "half_open"):
            fate.met.set()
            await asyncio.sleep(3600)
        if fate.kind == "stall":
            self.tally.stalls += 1
            await asyncio.sleep(self.trouble.pause)
        if fate.kind != "twice":
            fate.kind, fate.left = self._draw()  # a connection that is kept is no safer than many

    async def _again(self, request: bytes) -> None:
        """Send what one connection has sent on a new one, and hear whatever comes."""
        self.tally.twice += 1
        with suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                writer.write(request)
                async with asyncio.timeout(5):
                    while await reader.read(PIECE):
                        pass
            finally:
                writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a router that forgot it does."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def proxied(target: int, seed: int = 0, trouble: Trouble | None = None) -> Iterator[Proxy]:
    """A proxy to a port of this machine, on a port of its own, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(target, seed, trouble or Trouble(), port=listener.getsockname()[1])
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(listener, stop),), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
