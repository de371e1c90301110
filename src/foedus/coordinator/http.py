"""The HTTP door: who asks, what they may send, and how errors are told. No use case lives here."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, insert, select
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foedus.coordinator.context import Context, context
from foedus.coordinator.guards import WELCOME
from foedus.coordinator.identities import NodeIdentity, Person
from foedus.coordinator.keys import identify, known
from foedus.coordinator.measures import refused
from foedus.coordinator.refusals import note
from foedus.coordinator.sessions import bearer
from foedus.coordinator.tls import CERTIFICATE, judge_certificate
from foedus.coordinator.tokens import authenticate, note_use, use_is_due
from foedus.domain.errors import AccessError, ConflictError, FoedusError, TooLargeError, UsageError
from foedus.store import crashpoints
from foedus.store.tables import idempotency
from foedus.wire.http import IDEMPOTENCY_KEY, PROBLEM_TYPE, to_problem
from foedus.wire.signing import RequestHead, Verified, Verifier, check_body, verify_head

Command = TypeVar("Command", bound=BaseModel)
Result = TypeVar("Result")
log = logging.getLogger("foedus.coordinator")


def problem(error: FoedusError) -> Response:
    """The reply that tells an error."""
    refused(error)
    headers = {"Retry-After": retry_after()} if error.http_status in {429, 503} else {}
    body = to_problem(error).model_dump_json()
    return Response(body, status_code=error.http_status, media_type=PROBLEM_TYPE, headers=headers)


def retry_after() -> str:
    """Seconds after which to try again, other for everyone: who was sent away together does not come back together."""
    return str(random.randint(1, 5))


def add_error_handlers(app: FastAPI) -> None:
    """Every error leaves as a problem; those that nobody foresaw are told by :mod:`foedus.coordinator.requests`."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, FoedusError)
        await _note_refusal(request, error)
        if isinstance(error, AccessError):
            address = request.client.host if request.client else ""
            return problem(context(request).guards.slowed(error, address))
        return problem(error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        made = FoedusError(f"http_{error.status_code}", str(error.detail))
        refused(made)
        return Response(
            to_problem(made).model_copy(update={"status": error.status_code}).model_dump_json(),
            status_code=error.status_code,
            media_type=PROBLEM_TYPE,
        )

    async def gone(request: Request, error: Exception) -> Response:
        log.info("the connection broke in %s %s", request.method, request.url.path)
        return Response(status_code=400)

    app.add_exception_handler(FoedusError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientDisconnect, gone)


async def person(request: Request) -> Person:
    """The person behind a bearer token or a session.

    Raises:
        AccessError: ``token_missing``, ``token_refused``, ``token_expired``. ForbiddenError: ``cross_site``.
    """
    caller = getattr(request.state, "caller", None)
    if isinstance(caller, Person):
        return caller
    secret = bearer(request)
    if not 16 <= len(secret) <= 200:
        raise AccessError("token_refused", "That is no API token.", "They begin with fdp_.", "Set FOEDUS_TOKEN to one.")
    parts = context(request)

    def look() -> Person:
        with parts.store.reading() as tx:
            found = authenticate(tx, secret)
        if use_is_due(found):
            with parts.store.transaction("token_used") as tx:
                note_use(tx, found.token)
        return found

    setattr(request.state, WELCOME, look)
    request.state.caller = found = await to_thread.run_sync(look)
    return found


async def signed_head(request: Request) -> tuple[NodeIdentity, Verified]:
    """The node that signed a request whose body is still to be read (and checked by ``check_body``)."""
    caller = getattr(request.state, "caller", None)
    if isinstance(caller, NodeIdentity):
        return caller, request.state.verified
    parts = context(request)

    nodes: list[NodeIdentity] = []

    def keys(node: str) -> tuple[str, ...]:
        with parts.store.statements() as each:
            found = known(each, node, time.time())
        if found is None:
            return ()
        nodes.append(found[0])
        return found[1]

    def look() -> tuple[NodeIdentity, Verified]:
        verified = verify_head(verifier(parts, keys), head(request), time.time())
        return welcome(nodes[0]), verified

    def welcome(node: NodeIdentity) -> NodeIdentity:
        if parts.guards.revoked is not None:
            judge_certificate(request.scope["state"].get(CERTIFICATE), parts.guards.revoked, node.organisation)
        return node

    def look_again() -> None:
        with parts.store.statements() as each:
            node = identify(each, found.id)
        welcome(node)

    found, verified = await to_thread.run_sync(look)
    setattr(request.state, WELCOME, look_again)
    request.state.caller, request.state.verified = found, verified
    return found, verified


async def signed(request: Request) -> tuple[NodeIdentity, bytes]:
    """The node behind a signature, and the body that it signed."""
    node, verified = await signed_head(request)
    body = await read_body(request)
    check_body(verified, hashlib.sha256(body).digest())
    return node, body


def verifier(parts: Context, lookup: Callable[[str], tuple[str, ...]]) -> Verifier:
    """How signatures are judged here. What was signed before nonces were remembered is refused."""
    return Verifier(lookup, parts.guards.nonces, parts.guards.since)


def head(request: Request) -> RequestHead:
    """What a node signs, as it came over the wire."""
    path = request.scope.get("raw_path") or request.scope["path"].encode()
    query = request.scope["query_string"]
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return RequestHead(request.method, path.decode("latin-1").partition("?")[0], query.decode("latin-1"), headers)


async def read_body(request: Request) -> bytes:
    """A small body, whole.

    Raises:
        TooLargeError: ``body_too_large``.
    """
    limit = context(request).settings.body_limit
    body = bytearray()
    async for chunk in limited(request, limit):
        body += chunk
    return bytes(body)


async def limited(request: Request, limit: int) -> AsyncIterator[bytes]:
    """A body's chunks, refused as soon as they are more than ``limit`` bytes, whatever its header said."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise TooLargeError("body_too_large", f"The body is larger than {limit} bytes.", "", "Send less.")
        yield chunk


def parse(command: type[Command], body: bytes) -> Command:
    """The message in a body.

    Raises:
        UsageError: ``message_malformed``, with the fields that are wrong.
    """
    try:
        return command.model_validate_json(body)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, row['loc']))[:100]}: {row['msg']}" for row in error.errors()[:10]]
        why = "; ".join(found).encode("ascii", "backslashreplace").decode()
        raise UsageError("message_malformed", "The message is not what this path takes.", why) from error


def idempotency_key(request: Request) -> str:
    """The key of a request that must have one.

    Raises:
        UsageError: ``idempotency_key_missing``.
    """
    key = request.headers.get(IDEMPOTENCY_KEY, "")
    if not (8 <= len(key) <= 200 and key.isascii() and key.isprintable()):
        raise UsageError("idempotency_key_missing", f"The request needs an {IDEMPOTENCY_KEY} of 8 to 200 characters.")
    return key


def once(tx: Connection, actor: str, key: str, body: bytes, effect: Callable[[], BaseModel]) -> dict[str, Any]:
    """Do ``effect`` and remember the reply, in one transaction; the same key again gets the same reply.

    Raises:
        ConflictError: ``idempotency_conflict`` for the same key with another body.
    """
    asked = hashlib.sha256(body).hexdigest()
    row = tx.execute(select(idempotency).where(idempotency.c.actor == actor, idempotency.c.key == key)).one_or_none()
    if row is not None:
        if row.request_hash != asked:
            raise ConflictError(
                "idempotency_conflict", "This idempotency key was used for another request.", "", "Use a new key."
            )
        return dict(row.body)
    reply: dict[str, Any] = effect().model_dump(mode="json")
    kept = {"actor": actor, "key": key, "request_hash": asked, "status": 200, "body": reply, "created_at": time.time()}
    tx.execute(insert(idempotency).values(**kept))
    return reply


def read(request: Request, look: Callable[[Connection], Result]) -> Result:
    """What a look into the database gives; for routes that have a thread of their own."""
    with context(request).store.reading() as tx:
        return look(tx)


async def change(request: Request, name: str, effect: Callable[[Connection], Result]) -> Result:
    """Do ``effect`` in the transaction ``name``, in a thread."""
    store = context(request).store

    def work() -> Result:
        with store.transaction(name) as tx:
            return effect(tx)

    return await to_thread.run_sync(work)


async def _note_refusal(request: Request, error: FoedusError) -> None:
    parts, who = context(request), getattr(request.state, "caller", None)
    route = f"{request.method} {getattr(request.scope.get('route'), 'path', '-')}"
    await to_thread.run_sync(note, parts.store, parts.refusals, error, who, route)


class ReplyCrashPoints:
    """ASGI middleware: a crash point before and after each reply, named by method and route."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and reach the two points."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            route = scope.get("route")
            name = f"{scope['method']} {route.path if route is not None else '-'}"
            if message["type"] == "http.response.start":
                crashpoints.reach("reply", name, "before")
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                crashpoints.reach("reply", name, "after")

        await self.app(scope, receive, watched)
