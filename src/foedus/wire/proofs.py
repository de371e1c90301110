"""Statements that a key has signed: who holds the key means them (a new key of a node's, a start-up kit)."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus.domain.errors import AccessError
from foedus.wire.public_keys import parse_public_key


def prove(private: bytes, statement: str) -> str:
    """A key's signature of a statement of ours, as base64: who holds the key means it."""
    return base64.b64encode(Ed25519PrivateKey.from_private_bytes(private).sign(statement.encode())).decode()


def check_proof(public: str, statement: str, proof: str) -> None:
    """Check what :func:`prove` made.

    Raises:
        AccessError: ``key_malformed``, ``proof_refused``.
    """
    key = parse_public_key(public)
    try:
        key.verify(base64.b64decode(proof, validate=True), statement.encode())
    except (InvalidSignature, ValueError, binascii.Error) as error:
        raise AccessError("proof_refused", "The signature is not of this key over this statement.") from error
