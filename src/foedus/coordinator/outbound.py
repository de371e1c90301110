"""Requests that the coordinator sends where others point it: a guard against being used as a way inside (SSRF).

A name is resolved once, every address of it is judged, and the connection goes to the address that was judged, so that
a name which resolves differently a moment later (DNS rebinding) gains nothing. Redirects are not followed, and no proxy
of the environment is used. OWASP, "Server-Side Request Forgery Prevention Cheat Sheet".
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from foedus.domain.errors import ForbiddenError, UnreachableError
from foedus.wire.http import is_loopback, printable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True)
class Rules:
    """Where requests may go: public addresses over https, and hosts that an operator named (``trusted``, lower case).

    ``limit`` is in bytes of a reply; ``seconds`` is for the whole exchange.
    """

    trusted: frozenset[str] = frozenset()
    limit: int = 1 << 20
    seconds: float = 10.0


@dataclass(frozen=True)
class Reply:
    """A reply that was read to its end."""

    status: int
    content: bytes


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system resolves it."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def send(rules: Rules, request: httpx.Request, resolving: Resolve = resolve) -> Reply:
    """Send a request to the one address that was judged, and read its reply; a redirect is a reply like others.

    Raises:
        ForbiddenError: ``target_refused``.
        UnreachableError: ``target_unreachable``.
    """
    host = request.url.host.lower()
    pinned = request.url.copy_with(host=judge(rules, request.url, resolving))
    headers = [(name, value) for name, value in request.headers.items() if name not in {"host", "accept-encoding"}]
    named = {"sni_hostname": host} if request.url.scheme == "https" else {}
    end = time.monotonic() + rules.seconds
    try:
        with httpx.Client(trust_env=False, timeout=rules.seconds, verify=pinned.scheme == "https") as client:
            there = client.build_request(
                request.method,
                pinned,
                content=request.read(),
                headers=[("Host", request.headers["host"]), ("Accept-Encoding", "identity"), *headers],
                extensions=named,
            )
            response = client.send(there, stream=True)
            return Reply(response.status_code, _read(response, rules.limit, end))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _unreachable(host, printable(str(error) or type(error).__name__, 200)) from error


def judge(rules: Rules, url: httpx.URL, resolving: Resolve = resolve) -> str:
    """The address to connect to for ``url``.

    Raises:
        ForbiddenError: ``target_refused`` where any address of the host is one that requests must not reach.
        UnreachableError: ``target_unreachable`` where there is none.
    """
    host = url.host.lower()
    trusted = host in rules.trusted
    local = url.scheme == "http" and trusted and is_loopback(host)
    if url.userinfo or not host or not (url.scheme == "https" or local):
        raise _refused(host, "It must be an https:// URL without a name or password in it.")
    try:
        found = resolving(host, url.port or 443)
    except OSError as error:
        raise _unreachable(host, error.strerror or "") from error
    for text in found:
        if not _allowed(ipaddress.ip_address(text.partition("%")[0]), trusted):
            raise _refused(host, "It leads to an address that is not public.")
    if not found:
        raise _unreachable(host, "It has no address.")
    return found[0]


def _allowed(address: Address, trusted: bool) -> bool:
    """A trusted host may be a private address, but never one where clouds keep their machines' secrets."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is not None:
            return _allowed(inner, trusted)
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    return trusted or address.is_global


def _read(response: httpx.Response, limit: int, end: float) -> bytes:
    content = bytearray()
    for chunk in response.iter_raw(1 << 16):
        content += chunk
        if len(content) > limit:
            raise httpx.ReadError(f"its reply is longer than {limit} bytes")
        if time.monotonic() > end:
            raise httpx.ReadTimeout("its reply takes too long")
    return bytes(content)


def _refused(host: str, why: str) -> ForbiddenError:
    fix = "Name a public host, or one that the operator of this coordinator trusts."
    return ForbiddenError("target_refused", f"No request is sent to {printable(host, 200)!a}.", why, fix)


def _unreachable(host: str, why: str) -> UnreachableError:
    return UnreachableError("target_unreachable", f"{printable(host, 200)!a} does not answer.", why, "Try again later.")
