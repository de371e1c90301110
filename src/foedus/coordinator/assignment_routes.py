"""The door for nodes at work. Every request is signed; a poll waits on the event loop and costs no thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from foedus.coordinator import aligning, assignments, polling
from foedus.coordinator.bells import of_node, wait_for
from foedus.coordinator.context import context
from foedus.coordinator.http import parse, signed
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.live import Live
from foedus.coordinator.measures import contribution_refused
from foedus.coordinator.policy import acts
from foedus.domain.errors import FoedusError
from foedus.domain.spans import span
from foedus.wire.messages import Accepted, Contribute, Fail, Poll, Renew, Renewed, SchemaHeard, TellSchema, Work

router = APIRouter(prefix="/api/v1", tags=["nodes"])
Command = TypeVar("Command", bound=BaseModel)
Reply = TypeVar("Reply", bound=BaseModel)


@router.post("/node/poll", **acts("node.work"))
async def post_poll(request: Request, response: Response) -> Work:
    """Work for a node, as soon as there is some, or nothing after ``wait`` seconds."""
    node, body = await signed(request)
    command, live, began = parse(Poll, body), context(request).live, time.time()
    await to_thread.run_sync(lambda: polling.begin(live, node, command.boot))
    found = await wait_for(
        live.bells,
        of_node(node.id),
        lambda: polling.look(live, node, command, began),
        command.wait,
        request.is_disconnected,
    )
    if found is None:
        found = await to_thread.run_sync(lambda: polling.nothing(live, node, command))
    if found.then == "disconnect":
        response.headers["Connection"] = "close"
    return found


@router.post("/node/schemas", **acts("node.work"))
async def post_schema(request: Request) -> SchemaHeard:
    """What a dataset's columns are, or why the node keeps them."""
    node, body = await signed(request)
    command, live = parse(TellSchema, body), context(request).live
    return await to_thread.run_sync(lambda: aligning.hear(live, node, command))


@router.post("/node/assignments/{assignment}/renew", **acts("node.work"))
async def post_renew(request: Request, assignment: str) -> Renewed:
    """The work goes on."""
    return await _do(request, assignment, Renew, assignments.renew)


@router.post("/node/assignments/{assignment}/contribute", **acts("node.work"))
async def post_contribute(request: Request, assignment: str) -> Accepted:
    """The work is done; its update was uploaded before."""
    return await _do(request, assignment, Contribute, assignments.contribute)


@router.post("/node/assignments/{assignment}/fail", **acts("node.work"))
async def post_fail(request: Request, assignment: str) -> Accepted:
    """The work failed."""
    return await _do(request, assignment, Fail, assignments.fail)


async def _do(
    request: Request,
    assignment: str,
    command: type[Command],
    use_case: Callable[[Live, NodeIdentity, str, Command], Reply],
) -> Reply:
    node, body = await signed(request)
    message, live = parse(command, body), context(request).live
    with span("assignment", node=node.id, assignment=assignment):
        try:
            return await to_thread.run_sync(lambda: use_case(live, node, assignment, message))
        except FoedusError as error:
            if command is not Renew:
                contribution_refused(error)
            raise
