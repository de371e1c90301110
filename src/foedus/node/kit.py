"""A node made of a start-up kit: its signature is checked, then what it says is believed. Free of torch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import ValidationError

from foedus.domain.errors import IntegrityError, NotFoundError
from foedus.node import owner
from foedus.node.certificate import AUTHORITY
from foedus.node.files import write_durably
from foedus.node.vault import Identity
from foedus.wire.proofs import check_proof
from foedus.wire.trust import Kit, SignedKit, fingerprint_of, kit_statement

KIT_LIMIT = 256 << 10


@dataclass(frozen=True)
class Opened:
    """A kit whose signature holds, and the fingerprint of who signed it."""

    kit: Kit
    signer: str


def open_kit(path: Path, signer: str | None = None) -> Opened:
    """The kit in a file; ``signer`` is the fingerprint that it must be signed by, where the owner was told one.

    Raises:
        NotFoundError: ``kit_missing``.
        IntegrityError: ``kit_refused`` where it is malformed, changed, of another signer, or too old.
        AccessError: ``key_malformed``, ``proof_refused``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotFoundError("kit_missing", f"{path} cannot be read.", error.strerror or "", "Name the kit.") from error
    try:
        found = SignedKit.model_validate_json(content if len(content) <= KIT_LIMIT else b"")
        check_proof(found.signer, kit_statement(found.kit), found.signature)
        kit = Kit.model_validate_json(found.kit)
    except ValidationError as error:
        raise _refused("It is no kit, or of a newer version.") from error
    if signer is not None and signer.lower() != fingerprint_of(found.signer):
        raise _refused(f"It is signed by {fingerprint_of(found.signer)}.")
    if kit.expires_at.timestamp() < time.time():
        raise _refused(f"It was good until {kit.expires_at:%Y-%m-%d %H:%M} UTC.")
    if kit.authority and _fingerprint(kit.authority) != kit.fingerprint:
        raise _refused("Its certificate is not the one that it expects.")
    return Opened(kit, fingerprint_of(found.signer))


def init(home: Path, kit: Kit) -> Identity:
    """Make the node that a kit describes, and have it join.

    Raises:
        As :func:`foedus.node.owner.init` and :func:`foedus.node.owner.join`.
    """
    owner.init(home, kit.name)
    return join(home, kit)


def join(home: Path, kit: Kit) -> Identity:
    """Have a node join as its kit says: also again, where the coordinator could not be reached before.

    Raises:
        As :func:`foedus.node.owner.join`.
    """
    if kit.authority:
        write_durably(home / AUTHORITY, kit.authority.encode(), "authority")
    return owner.join(home, kit.coordinator, kit.token, kit.organisation)


def _fingerprint(pem: str) -> str:
    try:
        return x509.load_pem_x509_certificates(pem.encode())[0].fingerprint(SHA256()).hex()
    except (ValueError, IndexError):
        return ""


def _refused(why: str) -> IntegrityError:
    return IntegrityError("kit_refused", "The kit is refused.", why, "Ask the coordinator's operator for another kit.")
