"""What happened in a run, for who follows it: a look, a look that waits, and a stream.

The stream is of server-sent events (WHATWG HTML, section 9.2, https://html.spec.whatwg.org/multipage/#sse). The id of
an event is its number in the run, so that a reader goes on where it was, at any process of the coordinator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from anyio import to_thread
from sqlalchemy import select

from foedus.coordinator.bells import of_run, wait_for
from foedus.coordinator.live import Live
from foedus.coordinator.readiness import candidates
from foedus.coordinator.run_rows import find_run, run_unknown
from foedus.domain.lifecycle import ENDED
from foedus.store.tables import assignments, events
from foedus.wire.events import HISTORY, EventList, Follow, RunEvent

HEARTBEAT = 15.0
"""Seconds after which a comment shows a quiet stream to be alive."""


def news(live: Live, run: str, after: int) -> EventList:
    """What happened in a run after the event ``after``.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    with live.store.reading() as tx:
        ended = find_run(tx, run).status in ENDED
        query = select(events.c.data).where(events.c.run_id == run, events.c.number > after).order_by(events.c.number)
        rows = tx.execute(query.limit(HISTORY + 1)).scalars().all()
    told = tuple(RunEvent.model_validate(row) for row in rows[:HISTORY])
    return EventList(events=told, last=ended and len(rows) <= HISTORY)


def taking_part(live: Live, run: str, node: str) -> None:
    """Refuse a node that was never asked for a run and could not be.

    Raises:
        NotFoundError: ``run_unknown``, as for a run that is not there.
    """
    with live.store.reading() as tx:
        row = find_run(tx, run)
        mine = select(assignments.c.id).where(assignments.c.run_id == run, assignments.c.node_id == node).limit(1)
        if tx.execute(mine).first() is None and node not in {one.node for one in candidates(tx, row)}:
            raise run_unknown(run)


async def history(live: Live, run: str, follow: Follow, gone: Callable[[], Awaitable[bool]]) -> EventList:
    """What happened after an event, at once or within ``follow.wait`` seconds.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    look = _look(live, run, follow.after)
    if (found := await wait_for(live.bells, of_run(run), look, follow.wait, gone)) is not None:
        return found
    return await to_thread.run_sync(lambda: news(live, run, follow.after))


async def stream(live: Live, run: str, after: int) -> AsyncIterator[bytes]:
    """The events after ``after``, as they happen, until the run has ended."""
    yield b": foedus\n\n"
    while not live.bells.closed:
        found = await wait_for(live.bells, of_run(run), _look(live, run, after), HEARTBEAT)
        if found is None:
            yield b": still here\n\n"
            continue
        for event in found.events:
            after = event.id
            data = event.model_dump_json(exclude_defaults=True)
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()
        if found.last:
            return


def _look(live: Live, run: str, after: int) -> Callable[[], EventList | None]:
    def look() -> EventList | None:
        found = news(live, run, after)
        return found if found.events or found.last else None

    return look
