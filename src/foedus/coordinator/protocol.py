"""HTTP as uvicorn speaks it, with limits on what a stranger can have it remember and on how long it can keep a place.

uvicorn's fast parser keeps the target, headers and trailers of a request whatever their length, and waits for them for
ever; nothing else does. Every open file of the process is somebody's connection, so there are only so many: where all
places are taken, the connection that has gone longest without sending anything of use makes room; where all are being
answered, the newcomer is told to come back. So who only holds connections open, or trickles, keeps nobody out.
"""

from __future__ import annotations

import asyncio
import functools
import random
import resource
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from foedus.coordinator.measures import CONNECTIONS, TURNED_AWAY
from foedus.coordinator.tls import CERTIFICATE
from foedus.domain.errors import FoedusError, TooLargeError, UnreachableError
from foedus.wire.http import PROBLEM_TYPE, to_problem

HEAD_LIMIT = 64 << 10
"""Bytes that may arrive without a request's head, a piece of its body or its end being complete."""

HEAD_TOO_LARGE = TooLargeError(
    "head_too_large", f"The request's head is larger than {HEAD_LIMIT} bytes.", "", "Send less."
)

NEWS = 64 << 10
"""Bytes of a body that show an upload to go on."""

FILES = 1 << 17
"""Open files that are enough."""

RESERVED = 256
"""Open files that are not for connections: the database's, blobs', logs."""


@dataclass(frozen=True)
class Pace:
    """Seconds for a request's head, for each ``least`` bytes of its body, and for a full buffer of a reply to drain."""

    head: float = 20.0
    body: float = 30.0
    least: int = 4096
    reply: float = 60.0


@dataclass(frozen=True)
class Room:
    """Places for connections; ``waiting`` are those with no whole request to answer, the longest without news first."""

    places: int
    pace: Pace = Pace()
    waiting: dict[BoundedHttp, None] = field(default_factory=dict)

    def news(self, connection: BoundedHttp) -> None:
        """Put a connection last in the order in which they are told to go."""
        self.waiting.pop(connection, None)
        self.waiting[connection] = None


class BoundedHttp(HttpToolsProtocol):
    """Refuses a request that goes on and on, and one that does not go on at all."""

    def __init__(self, *arguments: Any, room: Room, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._room = room
        self._unfinished = self._arrived = self._useful = 0
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, if need be from who has been without news longest."""
        super().connection_made(transport)
        CONNECTIONS.inc()
        self._await(self._room.pace.head, self._head_late)
        if len(self.connections) > self._room.places:
            if self._room.waiting:
                next(iter(self._room.waiting)).make_room()
            else:
                self._turn_away("full", 503, "Service Unavailable", _full())
        self._room.news(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        CONNECTIONS.dec()
        self._room.waiting.pop(self, None)
        self._await(None)
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def make_room(self) -> None:
        """Leave: there is nothing to answer here, and somebody else has something."""
        self._room.waiting.pop(self, None)
        TURNED_AWAY.labels("idle").inc()
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse, then count what completed nothing."""
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await(self._room.pace.head, self._head_late)
        self._unfinished += len(data)
        self._arrived += len(data)
        super().data_received(data)
        if self._unfinished > HEAD_LIMIT and not self.transport.is_closing():
            self._turn_away("head", 431, "Request Header Fields Too Large", HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins; with it goes the certificate that its connection has shown."""
        super().on_message_begin()
        shown = self.transport.get_extra_info("ssl_object")
        self.scope["state"][CERTIFICATE] = shown and shown.getpeercert(True)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._unfinished = self._arrived = self._useful = 0
        self._room.news(self)
        super().on_headers_complete()
        self._await(self._room.pace.body, self._body_due)

    def on_body(self, body: bytes) -> None:
        """A piece of the body is complete."""
        self._unfinished = 0
        self._useful += len(body)
        if self._useful >= NEWS:
            self._useful = 0
            self._room.news(self)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._unfinished = 0
        self._await(None)
        if not self.cycle.response_complete:
            self._room.waiting.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request is answered."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self._room.news(self)

    def pause_writing(self) -> None:
        """Who asked reads slower than we answer."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._room.pace.reply, self._reply_stuck)

    def resume_writing(self) -> None:
        """Who asked reads on."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _reply_stuck(self) -> None:
        TURNED_AWAY.labels("slow_reader").inc()
        self.transport.abort()

    def _await(self, seconds: float | None, late: Any = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, late)

    def _head_late(self) -> None:
        self._turn_away("slow_head", 408, "Request Timeout", _slow("head_too_slow", "head", self._room.pace.head))

    def _body_due(self) -> None:
        """Look whether enough of the body has come, unless it is us who did not read on."""
        if self._arrived < self._room.pace.least and not self.flow.read_paused:
            self._turn_away("slow_body", 408, "Request Timeout", _slow("body_too_slow", "body", self._room.pace.body))
            return
        self._arrived = 0
        self._await(self._room.pace.body, self._body_due)

    def _turn_away(self, reason: str, status: int, phrase: str, error: FoedusError) -> None:
        """Say why, where nothing was said yet, and close."""
        self._await(None)
        TURNED_AWAY.labels(reason).inc()
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = _told(error, status)
            head = f"HTTP/1.1 {status} {phrase}\r\nretry-after: {random.randint(1, 5)}\r\nconnection: close\r\n"
            rest = f"content-type: {PROBLEM_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
            self.transport.write((head + rest).encode() + body)
        self.transport.close()


@functools.lru_cache(8)
def _told(error: FoedusError, status: int) -> bytes:
    return to_problem(error).model_copy(update={"status": status}).model_dump_json().encode()


def places() -> int:
    """How many connections this process may hold, after it has asked for as many open files as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = FILES if soft == resource.RLIM_INFINITY else soft
    return max(files - RESERVED, files // 2)


@functools.cache
def _slow(code: str, what: str, seconds: float) -> UnreachableError:
    return UnreachableError(
        code, f"The request's {what} did not come within {seconds:.0f} s.", "", "Send it at once, or look at the line."
    )


@functools.cache
def _full() -> UnreachableError:
    return UnreachableError(
        "connections_full", "The coordinator has as many connections as it can hold.", "", "Try again in a moment."
    )
