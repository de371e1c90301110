"""Logins through the provider: a browser that is sent there and comes back, a program that waits for its person.

What a browser is sent away with (state, nonce, PKCE verifier) is derived from a secret in a cookie of its own, so that
any replica can take it back, nothing is stored for strangers, and a login that somebody else began is of no use here
(login CSRF, session fixation: OAuth 2.0 Security Best Current Practice, RFC 9700). A login ends in a token as an admin
would make it, which expires.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any

from foedus.coordinator.login_settings import Login
from foedus.coordinator.oidc import Code, Provider, refused
from foedus.domain.errors import ConfigError, ForbiddenError
from foedus.domain.names import NAME

CALLBACK = "/login/callback"
RANK = ("admin", "researcher")
"""Roles, the widest first: where several grants cover somebody, one token has the widest."""


@dataclass(frozen=True)
class Begun:
    """A browser's login: where it goes, and the secret that it keeps."""

    url: str
    secret: str


@dataclass(frozen=True)
class Known:
    """Who logged in, by the provider's word, and what the operator's grants make of it."""

    issuer: str
    subject: str
    name: str
    grants: tuple[tuple[str, str], ...]


def begin(provider: Provider, callback: str) -> Begun:
    """Send a browser to the provider.

    Raises:
        UnreachableError: ``provider_unreachable``, ``provider_malformed``.
    """
    secret = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(derived(secret, "verifier").encode()).digest())
    parameters = {
        "redirect_uri": callback,
        "state": derived(secret, "state"),
        "nonce": derived(secret, "nonce"),
        "code_challenge": challenge.rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    return Begun(provider.authorization_url(parameters), secret)


def finish(provider: Provider, callback: str, secret: str, query: dict[str, str]) -> dict[str, Any]:
    """The claims of the person whose browser comes back with ``query`` and the secret that it left with.

    Raises:
        AccessError: ``login_refused``.
    """
    if not secret or not hmac.compare_digest(derived(secret, "state").encode(), query.get("state", "").encode()):
        raise refused("It was not begun in this browser, or too long ago.")
    if query.get("iss", provider.client.issuer) != provider.client.issuer:
        raise refused("It comes from another provider.")
    if "error" in query or not 1 <= len(query.get("code", "")) <= 2000:
        raise refused("The provider did not agree.")
    token = provider.redeem(Code(query["code"], derived(secret, "verifier"), callback))
    return provider.verify(token, derived(secret, "nonce"))


def derived(secret: str, purpose: str) -> str:
    """A value for one purpose that nobody finds without the secret; 43 characters, as PKCE wants at least.

    >>> len(derived("a", "verifier")), derived("a", "state") == derived("a", "nonce")
    (43, False)
    """
    digest = hmac.new(secret.encode(), f"foedus login {purpose}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def known(settings: Login, claims: dict[str, Any]) -> Known:
    """Who the claims speak of. The subject decides who it is; the name is for people to read.

    Raises:
        ForbiddenError: ``login_unknown`` where no grant covers them, and the operator wants nobody else.
    """
    grants = tuple((grant.organisation, grant.role) for grant in settings.granted(claims))
    if not grants and settings.unknown == "refuse":
        raise ForbiddenError(
            "login_unknown",
            "The provider knows you; this coordinator does not.",
            "No grant in its settings covers what the provider says of you.",
            "Ask the coordinator's operator.",
        )
    shown = claims.get(settings.name_claim)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(shown if isinstance(shown, str) else claims["sub"])).strip("._-")[:40]
    found = name if NAME.fullmatch(name) else f"u{hashlib.sha256(str(claims['sub']).encode()).hexdigest()[:12]}"
    return Known(str(claims["iss"]), str(claims["sub"]), found, tuple(dict.fromkeys(grants)))


def missing() -> ConfigError:
    """There is no login here."""
    return ConfigError(
        "login_missing",
        "This coordinator has no login provider.",
        "",
        "Use an API token, or have its operator set `[login]` in its settings.",
    )
