"""What comes through the pipes of a work process: files, and what it prints. It is read to its end, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foedus.node.frames import Stepped

LOG_LIMIT = 1 << 20
"""Bytes of what a work process prints that are kept; the rest is dropped."""

CHUNK = 1 << 20
"""Bytes of an update that are read at once."""


async def received(
    replies: asyncio.StreamReader, path: Path, size: int, idle: float, moved: Callable[[], None]
) -> None:
    """The next ``size`` bytes, in a file; nothing where there are none."""
    if not size:
        return
    with path.open("wb") as file:
        while size:
            async with asyncio.timeout(idle):
                chunk = await replies.read(min(size, CHUNK))
            if not chunk:
                raise asyncio.IncompleteReadError(b"", size)
            await asyncio.to_thread(file.write, chunk)
            size -= len(chunk)
            moved()


async def drained(stream: asyncio.StreamReader) -> None:
    """Read what is left, unless somebody else does: one that is not read to its end keeps its process from ending."""
    with contextlib.suppress(OSError, RuntimeError):
        while await stream.read(1 << 16):
            pass


@dataclass(frozen=True)
class Hearing:
    """Who is told how the work for an order goes: what was logged, and what the process printed."""

    stepped: Callable[[Stepped], None]
    printed: Callable[[bytes], None]


NOBODY = Hearing(lambda frame: None, lambda chunk: None)


@dataclass
class Prints:
    """Who hears, just now, what a process prints."""

    hear: Callable[[bytes], None] = lambda chunk: None


async def keep_prints(stream: asyncio.StreamReader, path: Path, prints: Prints) -> None:
    """Append what a process prints to a log, up to a limit; the log before is kept; what a full disk refuses is not."""
    room = LOG_LIMIT
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_name(path.name + ".1"))
    while chunk := await stream.read(1 << 16):
        if room > 0:
            with contextlib.suppress(OSError), path.open("ab") as file:  # a process that nobody reads hangs
                file.write(chunk[:room])
            prints.hear(chunk[:room])
            room -= len(chunk)
