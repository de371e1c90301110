"""The outermost layer of the door: every request has an id, is counted and timed, and leaves a line in the log.

The id comes from ``X-Request-Id`` where a proxy has given one, and goes back in the reply; an error that nobody foresaw
is told with it, so that who meets one can be helped. Where more wait for a worker thread than are served soon, as when
every node comes back at once after a restart, newcomers are told to come back after a while that is other for everyone.
"""

from __future__ import annotations

import logging
import re
import secrets

from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foedus.coordinator.http import problem
from foedus.coordinator.measures import BYTES, OPEN_REQUESTS
from foedus.domain.errors import FoedusError, UnreachableError
from foedus.domain.spans import Fields, span

REQUEST_ID = "x-request-id"
BACKLOG = 256
"""Requests that may wait for a worker thread before others are sent away; they are served within a second or two."""

OPERATION = ("/healthz", "/readyz", "/metrics", "/version")
PLAIN = re.compile(rb"[A-Za-z0-9._-]{8,64}")

log = logging.getLogger("foedus.requests")


class Requests:
    """ASGI middleware: the outermost one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and watch."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with span("request", request=_request_id(scope), method=scope["method"], status=0) as fields:
            with OPEN_REQUESTS.track_inprogress():
                await self._answer(scope, receive, send, fields)
            level = logging.INFO if int(fields["status"]) >= 400 else logging.DEBUG
            log.log(level, "%s %s", fields["route"], fields["status"])

    async def _answer(self, scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:
        async def taken() -> Message:
            message = await receive()
            BYTES.labels("in").inc(len(message.get("body", b"")))
            return message

        async def given(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = str(fields["request"])
            BYTES.labels("out").inc(len(message.get("body", b"")))
            await send(message)

        try:
            if _backlog() >= BACKLOG and scope["path"] not in OPERATION:
                await problem(_busy())(scope, taken, given)
            else:
                await self.app(scope, taken, given)
        except Exception:
            log.exception("unforeseen error in %s", _route(scope))
            if not fields["status"]:
                await problem(_internal(str(fields["request"])))(scope, taken, given)
        finally:
            fields["route"] = _route(scope)


def _backlog() -> int:
    return to_thread.current_default_thread_limiter().statistics().tasks_waiting


def _internal(request: str) -> FoedusError:
    return FoedusError("internal", "The coordinator met an error of its own.", "", f"Its log says more of {request}.")


def _busy() -> UnreachableError:
    return UnreachableError(
        "coordinator_busy",
        "The coordinator has more to do than it can.",
        "",
        "Try again after the time in Retry-After.",
    )


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID.encode()), b"")
    return given.decode() if PLAIN.fullmatch(given) else secrets.token_hex(8)


def _route(scope: Scope) -> str:
    """The method and the route's template, never the path: there are few of them."""
    route = scope.get("route")
    return f"{scope['method']} {route.path}" if route is not None else "unknown"
