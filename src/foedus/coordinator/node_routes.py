"""The door for nodes to join and say what they have, and for admins to let them in and out.

Replies that hold a secret are not kept for idempotency: asked again, another secret is made.
"""

from __future__ import annotations

import hashlib
import time
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from sqlalchemy import Connection

from foedus.coordinator import assignments, greeting, joining, keys, nodes
from foedus.coordinator.context import context
from foedus.coordinator.http import change, head, parse, person, read_body, signed, signed_head, verifier
from foedus.coordinator.identities import Person
from foedus.coordinator.policy import acts
from foedus.coordinator.tls import CERTIFICATE, judge_certificate
from foedus.domain.errors import ConflictError
from foedus.wire.messages import (
    PROTOCOL,
    Hello,
    Joined,
    JoinNode,
    JoinToken,
    NodeList,
    NodeView,
    Released,
    Welcome,
)
from foedus.wire.signing import check_body, verify
from foedus.wire.trust import NewJoinToken, Rotated, RotateKey

router = APIRouter(prefix="/api/v1")
Who = Annotated[Person, Depends(person)]


@router.post("/join-tokens", tags=["people"], **acts("nodes.invite"))
async def post_join_token(request: Request, who: Who) -> JoinToken:
    """A token that enrols one node, once."""
    body = await read_body(request)
    command = parse(NewJoinToken, body) if body else NewJoinToken()
    return await change(request, "join_token", lambda tx: joining.create_join_token(tx, who, command))


@router.get("/nodes", tags=["people"], **acts("nodes.read"))
def get_nodes(request: Request, who: Who) -> NodeList:
    """Every node that ever joined, of those that whoever asks may see."""
    with context(request).store.reading() as tx:
        return nodes.list_nodes(tx, who)


@router.post("/nodes/{node}/revoke", tags=["people"], **acts("nodes.change"))
async def post_revoke(request: Request, node: str, who: Who) -> NodeView:
    """Refuse a node from now on."""

    def effect(tx: Connection) -> NodeView:
        assignments.withdraw(tx, node, "node_revoked: its node was revoked")
        return nodes.revoke_node(tx, who, node)

    return await change(request, "revoke", effect)


@router.post("/client-names/{client}/release", tags=["people"], **acts("nodes.change"))
async def post_release(request: Request, client: str, who: Who) -> Released:
    """Let another node take a client's name, which belongs to the node that had it first."""
    return await change(request, "release", lambda tx: greeting.release(tx, who, client))


@router.post("/node/join", tags=["nodes"], **acts("node.join"))
async def post_join(request: Request) -> Joined:
    """Enrol with a one-use token. The request is signed with the key that it brings."""
    body = await read_body(request)
    command, parts = parse(JoinNode, body), context(request)
    _check_protocol(command.protocol)
    known = verifier(parts, lambda key: (key,) if key == command.public_key else ())

    def check() -> None:
        with parts.store.reading() as tx:
            joining.check_join(tx, command)
        if parts.guards.revoked is not None:
            judge_certificate(request.scope["state"].get(CERTIFICATE), parts.guards.revoked, command.organisation)
        verify(known, head(request), hashlib.sha256(body).digest(), time.time())

    await to_thread.run_sync(check)
    return await change(request, "join", lambda tx: joining.join_node(tx, command))


@router.post("/node/rotate-key", tags=["nodes"], **acts("node.work"))
async def post_rotate_key(request: Request) -> Rotated:
    """Replace the node's key; the old one is accepted a while longer, so that work in hand goes on."""
    _, verified = await signed_head(request)
    body = await read_body(request)
    check_body(verified, hashlib.sha256(body).digest())
    command = parse(RotateKey, body)
    return await change(request, "rotate_key", lambda tx: keys.rotate(tx, verified, command, time.time()))


@router.post("/node/hello", tags=["nodes"], **acts("node.work"))
async def post_hello(request: Request) -> Welcome:
    """A node is there, with these datasets and these answers of its owner."""
    node, body = await signed(request)
    command = parse(Hello, body)
    _check_protocol(command.protocol)
    return await change(request, "hello", lambda tx: nodes.hello(tx, node, command))


def _check_protocol(version: int) -> None:
    if version != PROTOCOL:
        raise ConflictError(
            "protocol_unknown",
            f"The node speaks protocol {version}; this coordinator speaks {PROTOCOL}.",
            "",
            "Install the same version of foedus on both sides.",
        )
