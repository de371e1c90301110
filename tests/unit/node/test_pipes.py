"""What comes through a work process's pipes is read to its end, whatever becomes of it here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from foedus.node.pipes import LOG_LIMIT, Prints, keep_prints


@pytest.mark.parametrize("log", [Path("/dev/full"), Path("/nowhere/work.log")], ids=["full", "gone"])
def test_what_is_printed_is_read_to_its_end_where_the_log_takes_no_more(log: Path) -> None:
    """A process whose pipe nobody reads would hang."""
    heard = list[bytes]()

    async def reading() -> bool:
        stream = asyncio.StreamReader()
        stream.feed_data(b"x" * (LOG_LIMIT + 1))
        stream.feed_eof()
        await keep_prints(stream, log, Prints(heard.append))
        return stream.at_eof()

    assert asyncio.run(reading())
    assert len(b"".join(heard)) == LOG_LIMIT
