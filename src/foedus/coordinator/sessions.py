"""The cookies of browsers: a login under way, and a session, which is an API token that scripts cannot read.

A session's cookie goes to its own site alone (``SameSite=Strict``), and what it does beside reading must come from a
page of this coordinator (``Sec-Fetch-Site``, or ``Origin``): another site's page can do nothing in its name (CSRF).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request, Response

from foedus.domain.errors import AccessError, ForbiddenError

LOGIN_SECONDS = 600
SAFE = frozenset({"GET", "HEAD"})


def bearer(request: Request) -> str:
    """The secret that a request comes with: its bearer token, or else its session.

    Raises:
        AccessError: ``token_missing``.
        ForbiddenError: ``cross_site`` for a session that a page of another site would use.
    """
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret
    session = request.cookies.get(_name(request, "session"), "")
    if not session or "authorization" in request.headers:
        raise AccessError("token_missing", "The request has no API token.", "", "Set FOEDUS_TOKEN, or give --token.")
    if request.method not in SAFE and not _same_site(request):
        raise ForbiddenError(
            "cross_site",
            "A session may be used by this coordinator's own pages alone.",
            "The request comes from a page of another site, or does not say from where.",
            "Use an API token for programs.",
        )
    return session


def keep_login(request: Request, response: Response, secret: str) -> None:
    """Have the browser keep the secret of its login until it comes back from the provider."""
    _set(request, response, "login", secret, LOGIN_SECONDS, "lax")


def login_secret(request: Request) -> str:
    """The secret of the login that this browser began; empty where it began none."""
    return request.cookies.get(_name(request, "login"), "")[:200]


def keep_session(request: Request, response: Response, token: str, seconds: int) -> None:
    """Begin a session, with a token that is new: whatever the browser held before is of no use."""
    _set(request, response, "session", token, seconds, "strict")
    _set(request, response, "login", "", 0, "lax")


def end_session(request: Request, response: Response) -> None:
    """Have the browser forget its session."""
    _set(request, response, "session", "", 0, "strict")


def _set(request: Request, response: Response, name: str, value: str, seconds: int, site: str) -> None:
    secure = "; Secure" if request.url.scheme == "https" else ""
    cookie = f"{_name(request, name)}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite={site.title()}{secure}"
    response.headers.append("set-cookie", cookie)


def _name(request: Request, name: str) -> str:
    """With https, a name that no other host and no page without https can set."""
    return f"__Host-foedus-{name}" if request.url.scheme == "https" else f"foedus-{name}"


def _same_site(request: Request) -> bool:
    said = request.headers.get("sec-fetch-site")
    if said is not None:
        return said == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")
