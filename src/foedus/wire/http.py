"""What HTTP peers agree on beside the messages: errors as problems, when TLS is a must, when and how to try again.

Pure: nothing here opens a connection. Nodes and people's programs share it, and the coordinator writes its errors with
it. Problems are RFC 9457; the waits are exponential with full jitter (Marc Brooker, "Exponential Backoff And Jitter",
AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import ValidationError

from foedus.domain import errors
from foedus.domain.errors import AccessError, ConfigError, FoedusError, UnreachableError
from foedus.wire.messages import Problem

API = "/api/v1"
PROBLEM_TYPE = "application/problem+json"
IDEMPOTENCY_KEY = "Idempotency-Key"
UPLOAD_OFFSET = "Upload-Offset"
"""In PATCH: where the chunk begins. In the reply to HEAD: how many bytes have arrived."""

REDIRECT = 307
PROBLEM_LIMIT = 64 << 10
LASTING = frozenset({"answer_malformed", "tls_failed", "tls_missing"})
"""Codes of unreachable peers that waiting does not mend."""

CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
BUSY = frozenset({408, 425, 429, 502, 503, 504})

KINDS: dict[str, type[FoedusError]] = {
    kind.__name__: kind
    for kind in (
        errors.FoedusError,
        errors.UsageError,
        errors.ConfigError,
        errors.PlanError,
        errors.DataError,
        errors.AccessError,
        errors.ForbiddenError,
        errors.UnreachableError,
        errors.BusyError,
        errors.NotFoundError,
        errors.ConflictError,
        errors.RoundClosedError,
        errors.QuorumError,
        errors.IntegrityError,
        errors.TooLargeError,
        errors.ContributionError,
        errors.StorageError,
        errors.ClientWorkError,
        errors.RunFailedError,
    )
}
BY_STATUS: dict[int, type[FoedusError]] = {
    400: errors.UsageError,
    401: errors.AccessError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    410: errors.RoundClosedError,
    413: errors.TooLargeError,
    422: errors.ConfigError,
    507: errors.StorageError,
}


def to_problem(error: FoedusError) -> Problem:
    """The error as it goes over the wire.

    >>> to_problem(ConfigError("config_refused", "No.")).status
    422
    """
    return Problem(
        title=error.what,
        status=error.http_status,
        code=error.code,
        detail=error.why,
        fix=error.fix,
        kind=type(error).__name__,
    )


def from_problem(status: int, content_type: str, body: bytes, url: str) -> FoedusError:
    """The error that a reply of this status means; of the class that was raised over there where the reply says so.

    A reply that is not a problem comes from something else than foedus: a proxy, or another server.

    >>> from_problem(503, "text/html", b"<html>", "https://a.example").code
    'http_503'
    """
    problem = _parse(content_type, body)
    if problem is None:
        return _foreign(status, url)
    kind = KINDS.get(problem.kind) or _kind(status)
    code = problem.code if CODE.fullmatch(problem.code) else f"http_{status}"
    return kind(code, printable(problem.title), printable(problem.detail), printable(problem.fix))


def from_status(status: int, url: str) -> FoedusError:
    """The error that a reply without a body means (to HEAD); only the status tells.

    >>> type(from_status(404, "https://a.example")).__name__
    'NotFoundError'
    """
    return _kind(status)(f"http_{status}", f"{url} answers HTTP {status}.")


def unreachable(url: str, why: str) -> UnreachableError:
    """Nobody answers at ``url``, or the connection broke."""
    fix = "Check the URL and the network; `foedus coordinator start` starts a coordinator."
    return UnreachableError("coordinator_unreachable", f"The coordinator at {url} does not answer.", why, fix)


def malformed(url: str, why: str) -> UnreachableError:
    """Somebody answers at ``url``, but not in our protocol."""
    fix = "Check that the URL is a foedus coordinator's, and that both sides have the same version."
    return UnreachableError("answer_malformed", f"The answer of {url} is not a foedus coordinator's.", why, fix)


def refuses(status: int, path: str) -> bool:
    """Whether a reply to a request for a path of the API is an error; a blob's may send us elsewhere.

    >>> refuses(307, "/blobs/aa"), refuses(307, "/runs")
    (False, True)
    """
    return status >= 300 and not (status == REDIRECT and path.startswith("/blobs/"))


def elsewhere(status: int, location: str, url: str) -> str | None:
    """Where a reply of the coordinator at ``url`` says that a blob's bytes are, if not in the reply; none: in it.

    Raises:
        UnreachableError: ``answer_malformed``, also for a place that would be reached without TLS, unlike ``url``.

    >>> elsewhere(307, "https://storage.example/b?signed", "https://a.example")
    'https://storage.example/b?signed'
    """
    if status != REDIRECT:
        return None
    schemes = {"https", urlsplit(url).scheme}
    if urlsplit(location).scheme not in schemes or not urlsplit(location).hostname:
        raise malformed(url, "It sends us to a place that cannot be trusted.")
    return location


def transient(error: FoedusError) -> bool:
    """Whether the same request, signed anew, may well succeed a little later.

    >>> transient(unreachable("https://a.example", "timed out")), transient(malformed("https://a.example", "HTML"))
    (True, False)
    """
    if isinstance(error, UnreachableError):
        return error.code not in LASTING
    return error.code == "signature_expired"


@dataclass(frozen=True)
class Retry:
    """How often to try (``attempts``, the first among them), and the waits between: ``base`` and ``cap`` in seconds."""

    attempts: int = 6
    base: float = 0.25
    cap: float = 8.0


def backoff(retry: Retry, failures: int, draw: float) -> float:
    """Seconds to wait after so many failures in a row (at least 1); ``draw`` is random, uniform in [0, 1).

    >>> [backoff(Retry(base=1.0, cap=5.0), failures, 0.5) for failures in (1, 2, 3, 4)]
    [0.5, 1.0, 2.0, 2.5]
    """
    return draw * min(retry.cap, retry.base * 2.0 ** min(failures - 1, 60))


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, by its name alone; nothing is resolved.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "10.0.0.1", "localhost.example.org")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_url(url: str) -> str:
    """The coordinator's URL without a slash at the end, if it is one that secrets and models may be sent to.

    Raises:
        ConfigError: ``url_malformed``.
        AccessError: ``tls_required`` for ``http://`` anywhere but on this machine.

    >>> check_url("http://127.0.0.1:8470/")
    'http://127.0.0.1:8470'
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    extras = parts.query or parts.fragment or parts.username is not None or parts.password is not None
    if parts.scheme not in {"http", "https"} or not host or extras or not (url.isascii() and url.isprintable()):
        raise ConfigError(
            "url_malformed",
            f"{url[:200]!a} is not the URL of a coordinator.",
            "It is a scheme, a host and perhaps a port and path; a password or query does not belong in it.",
            "Write it like https://coordinator.example.org or http://127.0.0.1:8470.",
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise AccessError(
            "tls_required",
            f"{url} has no TLS.",
            "Tokens and models would cross the network readable; only this machine may be spoken to without TLS.",
            "Use https://, for instance with a proxy before the coordinator that terminates TLS.",
        )
    return url.rstrip("/")


def printable(text: str, limit: int = 2000) -> str:
    """A peer's text without control characters (a terminal would obey them), at most ``limit`` characters.

    >>> printable("a" + chr(27) + "[2Jb")
    'a?[2Jb'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text[:limit])


def _kind(status: int) -> type[FoedusError]:
    return UnreachableError if status in BUSY else BY_STATUS.get(status, FoedusError)


def _parse(content_type: str, body: bytes) -> Problem | None:
    if content_type.split(";")[0].strip().lower() != PROBLEM_TYPE or len(body) > PROBLEM_LIMIT:
        return None
    try:
        return Problem.model_validate_json(body)
    except ValidationError:
        return None


def _foreign(status: int, url: str) -> FoedusError:
    why = "The answer is not a foedus coordinator's; perhaps a proxy stands before it."
    if status in BUSY:
        return UnreachableError(f"http_{status}", f"{url} answers HTTP {status}.", why, "Try again in a while.")
    if status in {401, 403, 413, 507}:
        return BY_STATUS[status](f"http_{status}", f"{url} refuses with HTTP {status}.", why, "Ask who runs it.")
    return malformed(url, f"It answers HTTP {status}, without a problem that foedus knows.")
