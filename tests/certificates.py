"""Certificates for tests: authorities, servers, clients, good ones and bad ones, and lists of revoked ones."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path
    serial: int


@dataclass
class Authority:
    """Somebody who signs certificates, into ``folder``."""

    folder: Path
    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.subject = _name(self.name, "")
        builder = _builder(self.subject, self.subject, self.key.public_key(), (-1, 30))
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self.certificate = builder.add_extension(usage, critical=True).sign(self.key, SHA256())
        self.path = self.folder / f"{self.name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self, name: str, organisation: str = "", usage: x509.ObjectIdentifier = CLIENT, days: tuple[int, int] = (-1, 2)
    ) -> Pair:
        """A certificate that holds from and to so many days from now; a server's is for this machine."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self.sign(_builder(_name(name, organisation), self.subject, key.public_key(), days), usage)
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key", made.serial_number)
        pair.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair

    def answer(self, request: str, days: tuple[int, int] = (-1, 2)) -> bytes:
        """The certificate that a request (PEM) asks for."""
        asked = x509.load_pem_x509_csr(request.encode())
        assert asked.is_signature_valid
        builder = _builder(asked.subject, self.subject, asked.public_key(), days)  # type: ignore[arg-type]
        return self.sign(builder, CLIENT).public_bytes(Encoding.PEM)

    def sign(self, builder: x509.CertificateBuilder, usage: x509.ObjectIdentifier) -> x509.Certificate:
        """A certificate for one use."""
        here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(here), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        return builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False).sign(self.key, SHA256())

    def revoke(self, path: Path, *serials: int) -> None:
        """Write the list of what was revoked."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.subject)
        builder = builder.last_update(NOW).next_update(NOW + timedelta(days=1))
        for serial in serials:
            row = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
            builder = builder.add_revoked_certificate(row.build())
        part = path.with_suffix(".part")
        part.write_bytes(builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM))
        part.replace(path)


def _name(name: str, organisation: str) -> x509.Name:
    rows = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    return x509.Name([*rows, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)] if organisation else rows)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: tuple[int, int]
) -> x509.CertificateBuilder:
    start, end = (NOW + timedelta(days=number) for number in days)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
