"""What stands between strangers and the use cases: used nonces, certificates, failed attempts, who is still welcome."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from anyio import to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foedus.coordinator.oidc import Provider
from foedus.coordinator.tls import Revoked
from foedus.domain.errors import AccessError, BusyError
from foedus.wire.http import is_loopback
from foedus.wire.nonces import Memory
from foedus.wire.signing import SKEW

ATTEMPTS, REFILL = 20, 6.0
"""Failed attempts that an address has at once, and seconds until it has one more."""

ADDRESSES = 10_000
"""Addresses that are remembered; the one that failed longest ago is forgotten first."""

CHECK = 10.0
"""Seconds after which a caller whose request still goes on is looked up again."""

NO_ATTEMPT = frozenset({"token_missing", "signature_missing", "signature_expired"})
"""Refusals of callers who tried no secret, or who have the right one and a wrong clock."""

WELCOME = "welcome"
log = logging.getLogger(__name__)


class Failures:
    """Failed attempts by address: a bucket of tokens each. Safe in threads; replicas count on their own.

    It slows who fails and nobody else: a right secret passes, also from an address (a clinic's, a proxy's) that
    somebody else fails from. Secrets have 192 random bits, so that no number of attempts finds one; what is held back
    is the noise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, address: str) -> float:
        """Count a failed attempt; 0, or the seconds for which this address has to wait.

        This machine's own are not counted: its processes could claim any address, as a proxy on it does.
        """
        now, key = self._clock(), _network(address)
        if is_loopback(key):
            return 0.0
        with self._lock:
            tokens, at = self._buckets.pop(key, (float(ATTEMPTS), now))
            tokens = min(float(ATTEMPTS), tokens + (now - at) / REFILL)
            allowed = tokens >= 1.0
            self._buckets[key] = (tokens - 1.0 if allowed else tokens), now
            if len(self._buckets) > ADDRESSES:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) * REFILL


@dataclass(frozen=True)
class Guards:
    """What every request is judged with. ``remembers_since``: when nonces began to be remembered, by the wall clock."""

    nonces: Memory
    remembers_since: float
    failures: Failures = field(default_factory=Failures)
    revoked: Revoked | None = None
    provider: Provider | None = None
    made_at: float = field(default_factory=lambda: time.monotonic())

    @property
    def since(self) -> float:
        """What was signed before this is refused, in seconds since the epoch: an earlier process may have accepted it.

        No such request is in time any more when this process is old enough. Then it counts no longer, because a clock
        that was ahead when the process began would lock every node out until it comes there again.
        """
        return self.remembers_since if time.monotonic() - self.made_at < 2 * SKEW else 0.0

    def slowed(self, error: AccessError, address: str) -> AccessError | BusyError:
        """The error to tell: the one given, or for an address that has failed too often, to wait."""
        if error.http_status != 401 or error.code in NO_ATTEMPT:
            return error
        seconds = self.failures.count(address)
        if not seconds:
            return error
        return BusyError(
            "too_many_attempts",
            "Too many attempts from this address have failed.",
            f"{ATTEMPTS} at once are allowed, and one more every {REFILL:.0f} s.",
            f"Correct the token, key or clock, and try again in {seconds:.0f} s.",
        )


class StillWelcome:
    """ASGI middleware: a request that goes on for long ends when its caller's key or token is revoked.

    The door that recognised the caller leaves a check in the request's state; it is repeated while bytes move.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look up the caller again every few seconds."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watch = _Watch(scope)

        async def received() -> Message:
            message = await receive()
            await watch.look()
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("more_body"):
                await watch.look()
            await send(message)
            watch.started = True

        try:
            await self.app(scope, received, sent)
        except Exception:
            if not (watch.ended and watch.started):
                raise
            log.info("a reply was broken off: its caller's key or token was revoked")


class _Watch:
    def __init__(self, scope: Scope) -> None:
        self._scope, self._at = scope, time.monotonic()
        self.ended = self.started = False

    async def look(self) -> None:
        check: Callable[[], object] | None = self._scope.get("state", {}).get(WELCOME)
        if check is None or time.monotonic() < self._at + CHECK:
            return
        try:
            await to_thread.run_sync(check)
        except AccessError:
            self.ended = True
            raise
        self._at = time.monotonic()


def _network(address: str) -> str:
    """The address; of IPv6 the network, as one machine has 2**64 of them."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        return "::1" if found.is_loopback else str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
