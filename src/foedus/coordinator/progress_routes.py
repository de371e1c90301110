"""The door for how work goes: nodes stream it, people read it."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request

from foedus.coordinator import progress
from foedus.coordinator.context import context
from foedus.coordinator.http import parse, person, read, signed
from foedus.coordinator.identities import Person
from foedus.coordinator.policy import acts
from foedus.wire.messages import Name
from foedus.wire.progress import PAGE, Noted, ProgressList, Reports

router = APIRouter(prefix="/api/v1")


@router.post("/node/progress", tags=["nodes"], **acts("node.work"))
async def post_progress(request: Request) -> Noted:
    """How a node's work goes."""
    node, body = await signed(request)
    command, live = parse(Reports, body), context(request).live
    return await to_thread.run_sync(lambda: progress.note(live, node, command))


@router.get("/runs/{run}/progress", tags=["people"], **acts("runs.read"))
def get_progress(
    request: Request,
    run: str,
    who: Annotated[Person, Depends(person)],
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    client: Annotated[Name | None, Query()] = None,
    newest: Annotated[int | None, Query(ge=1, le=PAGE)] = None,
) -> ProgressList:
    """What nodes said of a run's work: after a report that was seen, or the newest."""
    return read(request, lambda tx: progress.of_run(tx, run, after, client, newest))
