"""A login provider: what it says of itself, its keys, and whether a token of its is one (OpenID Connect Core 1.0).

The coordinator is the provider's client and asks it over its own connection, so that a browser or a program never hands
in a token of its choice. Discovery and keys (OpenID Connect Discovery 1.0, JWKS of RFC 7517) are kept for an hour, and
fetched again at most once a minute for a key that is unknown. Codes are bound by PKCE (RFC 7636); devices by RFC 8628.
"""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx
import jwt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from foedus.coordinator.outbound import Reply, Rules, send
from foedus.domain.errors import AccessError, ConfigError, FoedusError, UnreachableError
from foedus.wire.http import check_url, printable

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"})
"""Signatures with a private key of the provider's; never ``none``, and nothing with a secret that both sides know."""

HEADER = frozenset({"alg", "kid", "typ"})
"""What a token's header may say. A token that brings or names its own key (jwk, jku, x5u, x5c) is refused."""

KEPT, AGAIN = 3600.0, 60.0
TOKEN_LIMIT, KEYS_LIMIT = 16 << 10, 100
LEEWAY = 60.0
"""Seconds by which the provider's clock may differ from ours."""

Url = Annotated[str, StringConstraints(min_length=8, max_length=1000)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Part = TypeVar("Part", bound=BaseModel)


class Metadata(BaseModel):
    """What discovery tells, as far as it is used."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    issuer: Url
    authorization_endpoint: Url
    token_endpoint: Url
    jwks_uri: Url
    device_authorization_endpoint: Url | None = None


class Device(BaseModel):
    """What a person at a terminal is told to do (RFC 8628)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    device_code: Text
    user_code: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    verification_uri: Url
    verification_uri_complete: Url | None = None
    expires_in: Annotated[int, Field(gt=0, le=86400)]
    interval: Annotated[int, Field(ge=0, le=300)] = 5


class Tokens(BaseModel):
    """What a provider gives for a code; the other tokens are of no use here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id_token: Annotated[str, StringConstraints(min_length=1, max_length=TOKEN_LIMIT)]


@dataclass(frozen=True)
class Client:
    """Who the coordinator is to the provider; ``secret`` is None for a public client."""

    issuer: str
    client_id: str
    secret: str | None = None
    scopes: str = "openid profile email"


@dataclass(frozen=True)
class Code:
    """An authorisation code with what it is bound to."""

    code: str
    verifier: str
    redirect_uri: str


class Provider:
    """One login provider. Safe in threads; what it remembers can be forgotten.

    Raises:
        ConfigError, AccessError: as :func:`check_url`, for the issuer.
    """

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        host = (urlsplit(check_url(client.issuer)).hostname or "").lower()
        self._rules = Rules(trusted=frozenset({host}))
        self._clock = clock
        self._lock = threading.Lock()
        self._metadata: tuple[float, Metadata] | None = None
        self._keys: tuple[float, Mapping[str | None, jwt.PyJWK]] | None = None

    def metadata(self) -> Metadata:
        """What discovery tells; asked for at most once an hour.

        Raises:
            UnreachableError: ``provider_unreachable``, ``provider_malformed``.
        """
        with self._lock:
            if self._metadata is None or self._clock() > self._metadata[0] + KEPT:
                url = self.client.issuer.rstrip("/") + "/.well-known/openid-configuration"
                found = _parsed(Metadata, self._ask(httpx.Request("GET", url)))
                if found.issuer != self.client.issuer:
                    raise _malformed("It says that it is another issuer than the one in the settings.")
                self._metadata = self._clock(), found
            return self._metadata[1]

    def authorization_url(self, parameters: Mapping[str, str]) -> str:
        """Where a browser goes to log in."""
        asked = {"response_type": "code", "client_id": self.client.client_id, "scope": self.client.scopes}
        endpoint = self.metadata().authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode({**asked, **parameters})}"

    def redeem(self, code: Code) -> str:
        """The ID token for an authorisation code.

        Raises:
            AccessError: ``login_refused`` where the provider does not take the code.
        """
        fields = {"code": code.code, "code_verifier": code.verifier, "redirect_uri": code.redirect_uri}
        reply = self._token({"grant_type": "authorization_code", **fields})
        if reply.status != 200:
            raise refused(f"The provider refuses the code ({_error_of(reply)}).")
        return _parsed(Tokens, reply).id_token

    def begin_device(self) -> Device:
        """Begin a login of somebody at a terminal.

        Raises:
            ConfigError: ``device_login_missing`` where the provider has none.
        """
        endpoint = self.metadata().device_authorization_endpoint
        if endpoint is None:
            raise ConfigError("device_login_missing", "The login provider offers no login for terminals.")
        return _parsed(Device, self._ask(self._post(endpoint, {"scope": self.client.scopes})))

    def poll_device(self, device_code: str) -> str | Literal["authorization_pending", "slow_down"]:
        """The ID token once the person has agreed; until then, which of the two ways to wait.

        Raises:
            AccessError: ``login_refused`` where the person declined or waited too long.
        """
        grant = "urn:ietf:params:oauth:grant-type:device_code"
        reply = self._token({"grant_type": grant, "device_code": device_code})
        if reply.status == 200:
            return _parsed(Tokens, reply).id_token
        error = _error_of(reply)
        if error == "authorization_pending" or error == "slow_down":
            return "slow_down" if error == "slow_down" else "authorization_pending"
        raise refused(f"The provider ends the login ({error}).")

    def verify(self, token: str, nonce: str | None) -> dict[str, Any]:
        """The claims of an ID token that this provider made, for us, now, and for this login (``nonce``).

        Raises:
            AccessError: ``login_refused``.
        """
        key, algorithm = self._key_for(token)
        required = ["exp", "iat", "iss", "aud", "sub"]
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self.client.client_id,
                issuer=self.client.issuer,
                leeway=LEEWAY,
                options={"require": required},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise refused(f"The provider's token does not hold: {type(error).__name__}.") from error
        audience, party = claims["aud"], claims.get("azp")
        several = isinstance(audience, list) and len(audience) > 1
        if (several or party is not None) and party != self.client.client_id:
            raise refused("The provider's token was made for another client.")
        if not isinstance(claims["sub"], str) or not 1 <= len(claims["sub"]) <= 255:
            raise refused("The provider's token names nobody.")
        if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise refused("The provider's token is of another login.")
        return claims

    def _key_for(self, token: str) -> tuple[jwt.PyJWK, str]:
        try:
            header = jwt.get_unverified_header(token if len(token) <= TOKEN_LIMIT else "")
        except jwt.PyJWTError as error:
            raise refused("The provider's token is malformed.") from error
        algorithm, kid = header.get("alg"), header.get("kid")
        if not set(header) <= HEADER or algorithm not in ALGORITHMS or not (kid is None or isinstance(kid, str)):
            raise refused("The header of the provider's token says what it may not.")
        key = self._key(kid)
        if key is None or key.algorithm_name != algorithm:
            raise refused("The provider's token is signed with no key of the provider's.")
        return key, algorithm

    def _key(self, kid: str | None) -> jwt.PyJWK | None:
        """The key of this id; None names the only one. An id is looked up, and never becomes a path or a URL."""
        uri = self.metadata().jwks_uri
        with self._lock:
            age = self._clock() - self._keys[0] if self._keys else KEPT + 1
            if self._keys is None or age > KEPT or (kid not in self._keys[1] and age > AGAIN):
                self._keys = self._clock(), _keys_in(self._ask(httpx.Request("GET", uri)))
            return self._keys[1].get(kid)

    def _token(self, fields: Mapping[str, str]) -> Reply:
        return self._send(self._post(self.metadata().token_endpoint, fields))

    def _post(self, url: str, fields: Mapping[str, str]) -> httpx.Request:
        client = {"client_id": self.client.client_id}
        if self.client.secret is not None:
            client["client_secret"] = self.client.secret
        return httpx.Request("POST", url, data={**fields, **client})

    def _ask(self, request: httpx.Request) -> Reply:
        reply = self._send(request)
        if reply.status != 200:
            raise _malformed(f"It answers HTTP {reply.status} ({_error_of(reply)}).")
        return reply

    def _send(self, request: httpx.Request) -> Reply:
        try:
            return send(self._rules, request)
        except FoedusError as error:
            raise UnreachableError(
                "provider_unreachable",
                "The login provider does not answer.",
                error.what + " " + error.why,
                "Try again.",
            ) from error


def refused(why: str) -> AccessError:
    """A login that does not hold."""
    return AccessError("login_refused", "The login is refused.", why, "Log in again: `foedus login URL`.")


def _keys_in(reply: Reply) -> dict[str | None, jwt.PyJWK]:
    """The keys that sign, by id; what is not a public key of a kind that we take is passed over."""
    try:
        rows = json.loads(reply.content)["keys"]
        known: dict[str | None, jwt.PyJWK] = {}
        for row in rows[:KEYS_LIMIT]:
            if row.get("use", "sig") != "sig" or row.get("kty") not in {"RSA", "EC", "OKP"}:
                continue
            try:
                key = jwt.PyJWK.from_dict(row)
            except (jwt.PyJWTError, ValueError):
                continue
            if key.algorithm_name in ALGORITHMS:
                known[str(row["kid"]) if "kid" in row else None] = key
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _malformed(f"Its keys are malformed ({type(error).__name__}).") from error
    if len(known) == 1:
        known[None] = next(iter(known.values()))
    return known


def _parsed(model: type[Part], reply: Reply) -> Part:
    try:
        return model.model_validate_json(reply.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _malformed(f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg']}") from error


def _error_of(reply: Reply) -> str:
    """The error's name in an OAuth 2.0 reply."""
    try:
        return printable(str(json.loads(reply.content)["error"]), 60)
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"HTTP {reply.status}"


def _malformed(why: str) -> UnreachableError:
    return UnreachableError(
        "provider_malformed", "The login provider's answer cannot be used.", printable(why, 300), "Tell the operator."
    )
