"""Server-sent events, as bytes come in (WHATWG HTML, section 9.2.6, https://html.spec.whatwg.org/multipage/#sse)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from foedus.domain.errors import TooLargeError

EVENT_LIMIT = 1 << 20
"""Bytes of the longest line, and characters of the longest event's data."""


@dataclass(frozen=True)
class ServerEvent:
    """One event: its ``name``, its ``data``, and the id with which a reader may go on after it."""

    id: str
    name: str
    data: str


def server_events(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    r"""The events in a stream. Comments, ``retry`` and an unfinished event at the end are passed over.

    Raises:
        TooLargeError: ``event_too_large``.

    >>> list(server_events([b"id: 7\nevent: round\nda", b"ta: {}\n\n: still here\n"]))
    [ServerEvent(id='7', name='round', data='{}')]
    """
    last_id, name, data, size = "", "", list[str](), 0
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerEvent(last_id, name or "message", "\n".join(data))
            name, data, size = "", [], 0
        elif field == "data":
            data.append(value)
            size += len(value) + 1
            if size > EVENT_LIMIT:
                raise _too_large()
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        # A CR at the end may be half of a CR LF, so it waits for what follows.
        *whole, rest = _split(rest + chunk)
        yield from (line.decode("utf-8", errors="replace") for line in whole)
        if len(rest) > EVENT_LIMIT:
            raise _too_large()


def _split(content: bytes) -> list[bytes]:
    held = content.endswith(b"\r")
    lines = content[: len(content) - held].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return [*lines[:-1], lines[-1] + b"\r" * held]


def _too_large() -> TooLargeError:
    return TooLargeError("event_too_large", f"An event is over {EVENT_LIMIT} bytes.", "Events are small by protocol.")
