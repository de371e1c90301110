"""The door for who follows a run: a stream, a look that waits, for nodes as well, and webhooks."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.responses import StreamingResponse

from foedus.coordinator import webhooks
from foedus.coordinator.context import context
from foedus.coordinator.events import history, news, stream, taking_part
from foedus.coordinator.http import change, parse, person, read, read_body, signed
from foedus.coordinator.identities import Person
from foedus.coordinator.policy import acts
from foedus.wire.events import EventList, Follow, NewWebhook, Webhook, WebhookList, WebhookView

router = APIRouter(prefix="/api/v1")
Who = Annotated[Person, Depends(person)]


@router.get("/runs/{run}/events", tags=["people"], **acts("runs.read"))
async def get_events(request: Request, run: str, who: Who) -> Response:
    """Server-sent events; ``Last-Event-ID`` goes on after an event that was seen before."""
    live, last = context(request).live, request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
    first = await to_thread.run_sync(lambda: news(live, run, after))
    if first.last and not first.events:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(live, run, after), media_type="text/event-stream", headers=headers)


@router.get("/runs/{run}/history", tags=["people"], **acts("runs.read"))
async def get_history(
    request: Request,
    run: str,
    who: Who,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    wait: Annotated[float, Query(ge=0, le=30)] = 0.0,
) -> EventList:
    """The events after one that was seen, as soon as there are some, or none after ``wait`` seconds."""
    return await history(context(request).live, run, Follow(after=after, wait=wait), request.is_disconnected)


@router.post("/node/runs/{run}/history", tags=["nodes"], **acts("node.work"))
async def post_history(request: Request, run: str) -> EventList:
    """As people look, for a node that takes part in the run."""
    node, body = await signed(request)
    follow, live = parse(Follow, body), context(request).live
    await to_thread.run_sync(lambda: taking_part(live, run, node.id))
    return await history(live, run, follow, request.is_disconnected)


@router.post("/runs/{run}/webhooks", tags=["people"], **acts("runs.change"))
async def post_webhook(request: Request, run: str, who: Who) -> Webhook:
    """Have a run's events, from now on, sent to a URL, signed with a secret that is shown this once."""
    command, settings = parse(NewWebhook, await read_body(request)), context(request).settings.webhooks
    await to_thread.run_sync(lambda: webhooks.check_target(command.url, settings))
    return await change(request, "create_webhook", lambda tx: webhooks.create(tx, run, command, who.name))


@router.get("/runs/{run}/webhooks", tags=["people"], **acts("runs.read"))
def get_webhooks(request: Request, run: str, who: Who) -> WebhookList:
    """A run's webhooks, with what could not be delivered."""
    return read(request, lambda tx: webhooks.listed(tx, run))


@router.post("/runs/{run}/webhooks/{webhook}/remove", tags=["people"], **acts("runs.change"))
async def post_remove(request: Request, run: str, webhook: str, who: Who) -> WebhookView:
    """Send nothing more to a webhook."""
    return await change(request, "remove_webhook", lambda tx: webhooks.remove(tx, run, webhook))


@router.post("/runs/{run}/webhooks/{webhook}/retry", tags=["people"], **acts("runs.change"))
async def post_retry(request: Request, run: str, webhook: str, who: Who) -> WebhookView:
    """Send a webhook's dead letters anew."""
    return await change(request, "retry_webhook", lambda tx: webhooks.revive(tx, run, webhook))
