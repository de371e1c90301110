"""What comes through the pipes of a work process: files, and what it prints. It is read to its end, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

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


async def keep_prints(stream: asyncio.StreamReader, path: Path) -> None:
    """Append what a process prints to a log, up to a limit; the log before is kept."""
    room = LOG_LIMIT
    if path.is_file() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    while chunk := await stream.read(1 << 16):
        if room > 0:
            with path.open("ab") as file:
                file.write(chunk[:room])
            room -= len(chunk)
