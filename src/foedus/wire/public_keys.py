"""Ed25519 keys as text (Josefsson, Liusvaara, RFC 8032, https://www.rfc-editor.org/rfc/rfc8032)."""

from __future__ import annotations

import base64
import binascii
import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from foedus.domain.errors import AccessError

KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")

SMALL_ORDER = {
    *(0, 1, 2**255 - 20),
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927,
}
"""y of the eight points of small order (RFC 8032, 5.1). Anybody signs for such a key, by a few tries."""


def generate_key() -> bytes:
    """A new Ed25519 private key: 32 bytes that never leave the node."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> str:
    """The public half of a private key, 32 bytes as base64.

    >>> public_key(bytes(32))
    'O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik='
    """
    return base64.b64encode(Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()).decode()


def parse_public_key(text: str) -> Ed25519PublicKey:
    """The key that ``text`` is the base64 of, written in the one canonical way: a revoked key has no other name.

    Raises:
        AccessError: ``key_malformed``, also for a key of small order, for which anybody can sign.
    """
    try:
        raw = base64.b64decode(text if KEY.fullmatch(text) else "", validate=True)
        found = Ed25519PublicKey.from_public_bytes(raw)
    except (ValueError, binascii.Error) as error:
        raise AccessError("key_malformed", "The public key is not 32 bytes in base64.", type(error).__name__) from error
    if int.from_bytes(raw, "little") % 2**255 % (2**255 - 19) in SMALL_ORDER:
        raise AccessError("key_malformed", "The public key is a point of small order.", "Nobody alone can hold it.")
    return found
