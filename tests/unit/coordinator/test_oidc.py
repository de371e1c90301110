"""What a login provider's token must be, against a provider on loopback that says what each test wants."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from foedus.coordinator.oidc import AGAIN, KEPT, Client, Provider
from foedus.domain.errors import AccessError, UnreachableError

KEY, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
Claims = dict[str, Any]


def jwk(key: rsa.RSAPrivateKey, **more: Any) -> dict[str, Any]:
    return {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "use": "sig", "alg": "RS256", **more}


@dataclass
class Site:
    """A provider: its documents by path, what was asked of it, and a clock that tests move."""

    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    now: float = 0.0

    def provider(self) -> Provider:
        return Provider(Client(self.url, "foedus"), lambda: self.now)

    def claims(self, **changes: Any) -> Claims:
        now = int(time.time())
        usual = {"iss": self.url, "aud": "foedus", "sub": "ada", "nonce": "n1", "iat": now, "exp": now + 300}
        return {name: value for name, value in {**usual, **changes}.items() if value is not None}

    def token(self, key: Any = KEY, algorithm: str = "RS256", header: Any = None, **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), key, algorithm, {"kid": "k1", **(header or {})})


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            content = found.documents.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    found.documents = {
        "/.well-known/openid-configuration": {
            "issuer": found.url,
            "authorization_endpoint": f"{found.url}/auth",
            "token_endpoint": f"{found.url}/token",
            "jwks_uri": f"{found.url}/jwks",
        },
        "/jwks": {"keys": [jwk(KEY, kid="k1"), jwk(OTHER, kid="k2")]},
    }
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def unsigned(site: Site) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').rstrip(b"=").decode()
    return f"{head}.{site.token().split('.')[1]}."


def confused(site: Site) -> str:
    """HS256 with the bytes of the public RSA key as the secret, made by hand: the library would refuse to."""
    secret = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"k1","typ":"JWT"}').rstrip(b"=").decode()
    signed = f"{head}.{site.token().split('.')[1]}"
    code = base64.urlsafe_b64encode(hmac.new(secret, signed.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    return f"{signed}.{code}"


HOSTILE: dict[str, Callable[[Site], str]] = {
    "alg none": unsigned,
    "HS256 with the RSA key": confused,
    "another's key": lambda site: site.token(OTHER),
    "a key of the provider's for another algorithm": lambda site: site.token(algorithm="PS256"),
    "wrong aud": lambda site: site.token(aud="somebody"),
    "aud missing": lambda site: site.token(aud=None),
    "two audiences and no azp": lambda site: site.token(aud=["foedus", "other"]),
    "azp is another": lambda site: site.token(aud=["foedus", "other"], azp="other"),
    "wrong iss": lambda site: site.token(iss="https://evil.example.org"),
    "iss with a slash": lambda site: site.token(iss=site.url + "/"),
    "iss missing": lambda site: site.token(iss=None),
    "jku": lambda site: site.token(header={"jku": "https://evil.example.org/jwks"}),
    "x5u": lambda site: site.token(header={"x5u": "https://evil.example.org/cert"}),
    "x5c": lambda site: site.token(OTHER, header={"x5c": ["MIIB"]}),
    "jwk": lambda site: site.token(OTHER, header={"jwk": jwk(OTHER)}),
    "crit": lambda site: site.token(header={"crit": ["x"], "x": 1}),
    "exp missing": lambda site: site.token(exp=None),
    "expired": lambda site: site.token(exp=int(time.time()) - 120),
    "exp is text": lambda site: site.token(exp="soon"),
    "of the future": lambda site: site.token(iat=int(time.time()) + 3600, exp=int(time.time()) + 7200),
    "not yet valid": lambda site: site.token(nbf=int(time.time()) + 3600),
    "iat missing": lambda site: site.token(iat=None),
    "sub missing": lambda site: site.token(sub=None),
    "sub empty": lambda site: site.token(sub=""),
    "sub endless": lambda site: site.token(sub="a" * 300),
    "nonce of another login": lambda site: site.token(nonce="n2"),
    "nonce missing": lambda site: site.token(nonce=None),
    "kid traversal": lambda site: site.token(header={"kid": "../../../../etc/passwd"}),
    "kid is a URL": lambda site: site.token(header={"kid": "https://evil.example.org/key"}),
    "kid with NUL": lambda site: site.token(header={"kid": "k1\x00"}),
    "kid of SQL": lambda site: site.token(header={"kid": "' OR 1=1 --"}),
    "cut off": lambda site: site.token()[:-4],
    "other claims, same signature": lambda site: ".".join(
        [site.token().split(".")[0], site.token(sub="eve").split(".")[1], site.token().split(".")[2]]
    ),
    "a hundred kilobytes": lambda site: site.token(padding="a" * 100_000),
    "empty": lambda site: "",
    "not ASCII": lambda site: "é.é.é",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_case_50_is_refused(name: str, site: Site) -> None:
    provider = site.provider()
    assert provider.verify(site.token(), "n1")["sub"] == "ada"
    with pytest.raises(AccessError) as refused:
        provider.verify(HOSTILE[name](site), "n1")
    assert refused.value.code == "login_refused"
    assert set(site.asked) <= set(site.documents)


def test_a_token_for_several_audiences_that_names_us_is_taken(site: Site) -> None:
    assert site.provider().verify(site.token(aud=["foedus", "other"], azp="foedus"), None)["sub"] == "ada"


def test_discovery_and_keys_are_kept_and_an_unknown_key_is_asked_for_once_a_minute(site: Site) -> None:
    provider = site.provider()
    for _ in range(3):
        provider.verify(site.token(), "n1")
    assert site.asked == ["/.well-known/openid-configuration", "/jwks"]
    newer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    rotated = site.token(newer, header={"kid": "k3"})
    site.documents["/jwks"] = {"keys": [jwk(KEY, kid="k1"), jwk(newer, kid="k3")]}
    for _ in range(5):
        with pytest.raises(AccessError):
            provider.verify(rotated, "n1")
    assert site.asked.count("/jwks") == 1
    site.now += AGAIN + 1
    assert provider.verify(rotated, "n1")["sub"] == "ada"
    assert site.asked.count("/jwks") == 2
    site.now += KEPT + 1
    provider.verify(rotated, "n1")
    assert site.asked[3:] == ["/.well-known/openid-configuration", "/jwks"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/.well-known/openid-configuration", b"<html>"),
        ("/.well-known/openid-configuration", b"[" * 100_000),
        ("/.well-known/openid-configuration", b" " * (2 << 20)),
        ("/.well-known/openid-configuration", None),
        ("/jwks", b"{}"),
        ("/jwks", b'{"keys": 5}'),
        ("/jwks", b'{"keys": [5]}'),
        ("/jwks", b"[" * 100_000),
    ],
)
def test_a_provider_that_talks_nonsense_is_told_as_such(site: Site, path: str, content: bytes | None) -> None:
    site.documents[path] = content
    with pytest.raises(UnreachableError) as told:
        site.provider().verify(site.token(), "n1")
    assert told.value.code in {"provider_malformed", "provider_unreachable"}


@pytest.mark.parametrize(
    "uri",
    ["http://169.254.169.254/jwks", "https://169.254.169.254/jwks", "file:///etc/passwd", "https://10.0.0.1/jwks"],
)
def test_case_45_discovery_that_points_elsewhere_is_refused(site: Site, uri: str) -> None:
    site.documents["/.well-known/openid-configuration"]["jwks_uri"] = uri
    with pytest.raises(UnreachableError) as told:
        site.provider().verify(site.token(), "n1")
    assert told.value.code == "provider_unreachable"


def test_discovery_of_another_issuer_is_refused(site: Site) -> None:
    site.documents["/.well-known/openid-configuration"]["issuer"] = "https://evil.example.org"
    with pytest.raises(UnreachableError) as told:
        site.provider().metadata()
    assert "another issuer" in told.value.why


def test_keys_that_do_not_sign_are_passed_over(site: Site) -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"}
    site.documents["/jwks"] = {"keys": [secret, jwk(KEY, kid="k1", use="enc"), jwk(OTHER, kid="k2")]}
    with pytest.raises(AccessError):
        site.provider().verify(site.token(), "n1")
    assert site.provider().verify(site.token(OTHER, header={"kid": "k2"}), "n1")["sub"] == "ada"
