"""The files of TLS in a node's home: whom to trust, and a certificate of the node's own where the coordinator asks.

The key is made here and never leaves; what goes to the authority is a request (PKCS #10). Free of torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from foedus.domain.errors import ConfigError
from foedus.node.files import move_durably, write_durably
from foedus.node.vault import Vault
from foedus.wire.tls import Trust, trust_of_environment

AUTHORITY, CERTIFICATE, TLS_KEY = "authority.pem", "certificate.pem", "certificate.key"
NEXT_KEY = "certificate.key.next"


def trust_of(home: Path) -> Trust:
    """What the node in ``home`` trusts and shows."""
    authority = home / AUTHORITY
    trusted = authority if authority.is_file() else trust_of_environment().authority
    if (home / CERTIFICATE).is_file():
        return Trust(trusted, home / CERTIFICATE, home / TLS_KEY)
    return Trust(trusted)


def request_certificate(home: Path, organisation: str) -> str:
    """A new key, and the request for a certificate over it, as PEM; asked again, the same request anew.

    Raises:
        NotFoundError: ``node_missing``.
    """
    with Vault(home) as vault:
        name = vault.identity().name
    path = home / NEXT_KEY
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if organisation:
        subject.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    request = builder.sign(_private(path), SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def install_certificate(home: Path, certificate: Path) -> None:
    """Show this certificate from now on; a node that runs takes it for its next connection.

    Raises:
        NotFoundError: ``node_missing``. ConfigError: ``certificate_unusable`` where it is not over the node's key.
    """
    try:
        content = certificate.read_bytes()
        public = x509.load_pem_x509_certificates(content)[0].public_key()
    except (OSError, ValueError, IndexError) as error:
        raise _unusable(f"{type(error).__name__}: {error}") from error
    with Vault(home) as vault:
        keys = [path for path in (home / NEXT_KEY, home / TLS_KEY) if path.is_file()]
        shown = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        mine = [path for path in keys if _public_pem(path) == shown]
        if not mine:
            raise _unusable("It is not over a key of this node.")
        if mine[0] == home / NEXT_KEY:
            move_durably(home / NEXT_KEY, home / TLS_KEY, "certificate_key")
        write_durably(home / CERTIFICATE, content, "certificate")
        vault.record("certificate_installed", certificate.name, "")


def _private(path: Path) -> ec.EllipticCurvePrivateKey:
    found = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def _public_pem(path: Path) -> bytes:
    return _private(path).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _unusable(why: str) -> ConfigError:
    return ConfigError(
        "certificate_unusable",
        "That certificate cannot be this node's.",
        why,
        "Have the authority sign what `foedus node certificate request` prints.",
    )
