"""What happens in a run, as server-sent events (WHATWG HTML, section 9.2, https://html.spec.whatwg.org/multipage/#sse).

Events are rows; the id of an event is its row's number, so that a reader goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from foedus.coordinator.bells import of_run, wait_for
from foedus.coordinator.live import Live, find_run
from foedus.domain.run import ENDED
from foedus.store.tables import events

AT_ONCE = 200
HEARTBEAT = 15.0
"""Seconds after which a comment shows a quiet stream to be alive."""


@dataclass(frozen=True)
class News:
    """Events after the last that a reader has seen; ``last``: the run has ended and there will be no more."""

    rows: tuple[tuple[int, str, dict[str, Any]], ...]
    last: bool


def news(live: Live, run: str, after: int) -> News:
    """What happened in a run after the event ``after``.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    with live.store.reading() as tx:
        ended = find_run(tx, run).status in ENDED
        query = select(events).where(events.c.run_id == run, events.c.seq > after).order_by(events.c.seq)
        rows = tx.execute(query.limit(AT_ONCE + 1)).all()
    told = tuple((row.seq, row.kind, {**row.data, "at": row.at}) for row in rows[:AT_ONCE])
    return News(told, ended and len(rows) <= AT_ONCE)


async def stream(live: Live, run: str, after: int) -> AsyncIterator[bytes]:
    """The events after ``after``, as they happen, until the run has ended."""

    def look() -> News | None:
        found = news(live, run, after)
        return found if found.rows or found.last else None

    yield b": foedus\n\n"
    while not live.bells.closed:
        found = await wait_for(live.bells, of_run(run), look, HEARTBEAT)
        if found is None:
            yield b": still here\n\n"
            continue
        for after, kind, data in found.rows:
            yield f"id: {after}\nevent: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
        if found.last:
            return
