"""Signatures of nodes' requests and secrets of people: who is it that speaks to the coordinator?

Every request of a node is signed with its Ed25519 key: HTTP Message Signatures (Backman, Richer, Sporny, RFC 9421,
https://www.rfc-editor.org/rfc/rfc9421) over method, path, query, the body's SHA-256 (``Content-Digest``, RFC 9530) and,
where they are sent, ``Idempotency-Key`` and ``Upload-Offset``. The authority is not covered: proxies may change it,
and TLS holds it. A request is accepted once, and only while it is fresh.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import http_sf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    MappingKeyResolver,
    algorithms,
)

from foedus.domain.errors import AccessError, IntegrityError
from foedus.wire.nonces import Memory
from foedus.wire.public_keys import parse_public_key

LABEL = "foedus"
COVERED = ("@method", "@path", "@query", "content-digest")
COVERED_IF_SENT = ("idempotency-key", "upload-offset")
PARAMETERS = frozenset({"created", "nonce", "keyid", "alg"})
SKEW = 60.0
"""Seconds by which ``created`` may differ from the verifier's clock; nonces are kept for twice as long."""

HEADER_LIMITS = {
    "signature-input": 1024,
    "signature": 256,
    "content-digest": 128,
    "idempotency-key": 200,
    "upload-offset": 20,
}
PATH, QUERY = re.compile(r"/[^?#]{0,4095}"), re.compile(r"[^#]{0,4095}")
NONCE = re.compile(r"[0-9a-f]{32}")
CONTENT_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
EMPTY = hashlib.sha256(b"").digest()


@dataclass(frozen=True)
class RequestHead:
    """What is signed of a request: ``path`` and ``query`` (without ``?``) percent-encoded, as they are on the wire."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Signer:
    """A key with its id: the node's id, or before it has one (``POST /node/join``) the public key itself."""

    key_id: str
    private: bytes = field(repr=False)


@dataclass(frozen=True)
class Verified:
    """A request that ``key_id`` signed with ``key`` at ``created`` (Unix seconds), and the body that it promised."""

    key_id: str
    nonce: str
    created: int
    body_sha256: bytes
    key: str


def content_digest(body_sha256: bytes) -> str:
    """The value of ``Content-Digest`` for a body with this SHA-256 (32 bytes).

    >>> content_digest(EMPTY)
    'sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:'
    """
    return f"sha-256=:{base64.b64encode(body_sha256).decode()}:"


def sign(signer: Signer, head: RequestHead, body_sha256: bytes, now: float) -> dict[str, str]:
    """The headers to add to a request: ``Content-Digest``, ``Signature-Input`` and ``Signature``.

    ``body_sha256`` is the digest of the bytes that are sent, so a streamed body whose digest is known needs no
    second reading. Sign again for every attempt: a signature is accepted once.
    """
    headers = {"Content-Digest": content_digest(body_sha256), **_relevant(head.headers, COVERED_IF_SENT)}
    message = _Message(head.method, _url(head), headers)
    key = Ed25519PrivateKey.from_private_bytes(signer.private)
    HTTPMessageSigner(
        signature_algorithm=algorithms.ED25519,
        key_resolver=MappingKeyResolver(public_keys={}, private_keys={signer.key_id: key}),
    ).sign(
        message,
        key_id=signer.key_id,
        created=datetime.fromtimestamp(int(now), UTC),
        nonce=secrets.token_hex(16),
        label=LABEL,
        covered_component_ids=_components(headers),
        use_existing_digest=True,
    )
    return {name: headers[name] for name in ("Content-Digest", "Signature-Input", "Signature")}


@dataclass(frozen=True)
class Verifier:
    """What a request is judged by: known keys (id → base64, several while one is replaced), used nonces, the clock.

    ``not_before`` is since when nonces are remembered: what was signed before is refused. ``skew`` is in seconds.
    """

    lookup: Callable[[str], tuple[str, ...]]
    nonces: Memory
    not_before: float
    skew: float = SKEW


def verify(verifier: Verifier, head: RequestHead, body_sha256: bytes, now: float) -> Verified:
    """:func:`verify_head`, then :func:`check_body`, for a request whose body has been read."""
    check_body(verified := verify_head(verifier, head, now), body_sha256)
    return verified


def verify_head(verifier: Verifier, head: RequestHead, now: float) -> Verified:
    """Check everything but the body, so that a stranger's body need not be read at all.

    Raises:
        AccessError: ``signature_missing``, ``signature_invalid``, ``key_unknown``, ``signature_expired`` or
            ``signature_replayed``.
    """
    headers = _relevant(head.headers, HEADER_LIMITS)
    for name in ("signature-input", "signature", "content-digest"):
        if name not in headers:
            raise AccessError("signature_missing", f"The request has no {name} header.", "Nodes sign every request.")
    if not PATH.fullmatch(head.path) or not QUERY.fullmatch(head.query):
        raise _invalid("its target is malformed or too long")
    key_id = _claimed_key(headers["signature-input"])
    known = verifier.lookup(key_id)
    if not known:
        raise AccessError("key_unknown", "The request is signed with a key that is not known here.", "", _JOIN)
    verified = _check_any(head, headers, key_id, known)
    _check_time(verifier, verified, now)
    if not verifier.nonces.use(verified.key_id, verified.nonce, verified.created, now):
        raise AccessError("signature_replayed", "This signed request was sent before.", "", "Sign the request again.")
    return verified


def check_body(verified: Verified, body_sha256: bytes) -> None:
    """Check that the body is the one that was signed.

    Raises:
        IntegrityError: ``body_mismatch``.
    """
    if not hmac.compare_digest(verified.body_sha256, body_sha256):
        raise IntegrityError(
            "body_mismatch", "The body is not the one that was signed.", "Its SHA-256 differs.", "Send it again."
        )


def new_secret(prefix: str) -> str:
    """A secret of 192 random bits; ``prefix`` says what it is for (``fdj`` joins a node, ``fdp`` is a person's)."""
    return f"{prefix}_{secrets.token_hex(24)}"


def hash_secret(secret: str) -> str:
    """What is kept of a secret. Plain SHA-256 is enough: nobody can try 2**192 random secrets, however fast.

    Passwords, which people choose, would need a slow hash; these are never chosen.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


_JOIN = "Join the coordinator with `foedus node join`; if the node was revoked, ask the coordinator's admin."


@dataclass
class _Message:
    method: str
    url: str
    headers: dict[str, str]


def _url(head: RequestHead) -> str:
    return f"http://coordinator{head.path}" + (f"?{head.query}" if head.query else "")


def _components(headers: Mapping[str, str]) -> tuple[str, ...]:
    return (*COVERED, *(name for name in COVERED_IF_SENT if name in headers))


def _relevant(headers: Mapping[str, str], names: Mapping[str, int] | tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        if (name := name.lower()) not in names:
            continue
        if name in found:
            raise _invalid(f"{name} is sent twice")
        if len(value) > HEADER_LIMITS[name]:
            raise _invalid(f"{name} is longer than {HEADER_LIMITS[name]} characters")
        found[name] = value
    return found


def _claimed_key(signature_input: str) -> str:
    try:
        labels: Any = http_sf.parse(signature_input.encode("ascii"), tltype="dictionary")
        ((label, (_, parameters)),) = labels.items()
        key_id = parameters["keyid"]
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid("signature-input is not one signature with our label and a key id") from error
    if label != LABEL or not isinstance(key_id, str) or not 1 <= len(key_id) <= 64:
        raise _invalid("its label or key id is malformed")
    return key_id


def _check_any(head: RequestHead, headers: dict[str, str], key_id: str, known: tuple[str, ...]) -> Verified:
    """What any of these keys has signed."""
    for key in known[:-1]:
        try:
            return _check_signature(head, headers, key_id, key)
        except AccessError:
            continue
    return _check_signature(head, headers, key_id, known[-1])


def _check_signature(head: RequestHead, headers: dict[str, str], key_id: str, key: str) -> Verified:
    resolver = MappingKeyResolver(public_keys={key_id: parse_public_key(key)}, private_keys={})
    checker = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=resolver)
    # The library judges time by the machine's clock; ours is an argument, and judged in _check_time.
    checker.max_clock_skew = timedelta(days=36500)
    try:
        (result,) = checker.verify(_Message(head.method, _url(head), headers), max_age=None)
    except (HTTPMessageSignaturesException, ValueError) as error:
        raise _invalid("it does not fit the request and the key") from error
    covered = [name.strip('"') for name in result.covered_components if name != '"@signature-params"']
    if sorted(covered) != sorted(_components(headers)):
        raise _invalid("it must cover " + ", ".join(_components(headers)) + ", and nothing else")
    claims = result.parameters
    digest = CONTENT_DIGEST.fullmatch(headers["content-digest"])
    if set(claims) != PARAMETERS or not NONCE.fullmatch(str(claims["nonce"])) or digest is None:
        raise _invalid("it needs created, keyid, alg, a nonce of 128 bits in hexadecimal, and a sha-256 digest")
    return Verified(
        str(claims["keyid"]), str(claims["nonce"]), int(claims["created"]), base64.b64decode(digest.group(1)), key
    )


def _check_time(verifier: Verifier, verified: Verified, now: float) -> None:
    age = now - verified.created
    why = ""
    if abs(age) > verifier.skew:
        side = "ago" if age > 0 else "ahead"
        why = f"It was signed {abs(age):.0f} s {side} by our clock; {verifier.skew:.0f} s are allowed."
    elif verified.created < verifier.not_before:
        why = "It was signed before this coordinator started."
    if why:
        raise AccessError(
            "signature_expired", "The request's signature is not fresh.", why, "Sign again; if it stays, set the clock."
        )


def _invalid(why: str) -> AccessError:
    return AccessError("signature_invalid", "The request's signature is refused.", f"Reason: {why}.", "Sign it again.")
