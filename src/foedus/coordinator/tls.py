"""TLS while the coordinator serves: certificates that are replaced under way, and nodes' certificates (mutual TLS).

OpenSSL refuses a client certificate that another authority signed, that is too old or too young, or that was made for
servers. What it cannot know is judged here for every request of a node: whether there is one, whether it was revoked or
has expired since the connection began, and whose it is. The reason goes into the log and the audit log alone.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from foedus.domain.errors import AccessError, ConfigError

CERTIFICATE = "certificate"
"""Where a request's state holds the certificate of its connection, as DER; None without one."""

LOOK = 1.0
"""Seconds between two looks at the certificates' files."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files:
    """PEM files: the server's chain and key, the authority of nodes' certificates, and what it has revoked."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_crl: Path | None = None

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Something that changes when a file does; empty while one is missing."""
        paths = (self.certificate, self.key, self.client_ca, self.client_crl)
        try:
            found = [path.stat() for path in paths if path is not None]
        except OSError:
            return ()
        return tuple((one.st_mtime_ns, one.st_ino) for one in found)


def server_context(files: Files) -> ssl.SSLContext:
    """What connections are accepted with.

    Raises:
        ConfigError: ``certificate_unusable``.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(files.certificate, files.key)
        if files.client_ca is not None:
            # Optional here, as people come without one; the door of nodes asks for it.
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(files.client_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "certificate_unusable",
            "The TLS certificate, its key or the nodes' authority cannot be used.",
            f"{type(error).__name__}: {error}",
            "Name PEM files that belong together: the certificate with its chain, its key without a password.",
        ) from error
    return context


async def watch(context: ssl.SSLContext, files: Files, seconds: float = LOOK) -> None:
    """Serve new connections with the new certificate as soon as its files have changed, for ever.

    Files that do not fit together yet (one of the two is written before the other) are looked at again.
    """
    known = files.stamp()
    while True:
        await asyncio.sleep(seconds)
        found = files.stamp()
        if not found or found == known:
            continue
        try:
            server_context(files)
            context.load_cert_chain(files.certificate, files.key)
            if files.client_ca is not None:
                context.load_verify_locations(files.client_ca)
        except (ConfigError, OSError, ssl.SSLError) as error:
            log.warning("the new certificate cannot be used yet: %s", error)
            continue
        known = found
        log.info("new connections get the certificate of %s", files.certificate)


class Revoked:
    """Serial numbers that an authority has revoked, read again when the list has changed. Safe in threads."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._known: tuple[object, frozenset[int]] = (None, frozenset())
        self._read()

    def __contains__(self, serial: int) -> bool:
        return serial in self._read()

    def _read(self) -> frozenset[int]:
        path = self._files.client_crl
        if path is None:
            return frozenset()
        with self._lock:
            try:
                found = path.stat()
                if (stamp := (found.st_mtime_ns, found.st_ino)) != self._known[0]:
                    self._known = stamp, self._parse(path.read_bytes())
            except (OSError, ValueError, InvalidSignature) as error:
                if self._known[0] is None:
                    raise _unusable(error) from error
                log.warning("the new list of revoked certificates cannot be used: %s", error)
            return self._known[1]

    def _parse(self, content: bytes) -> frozenset[int]:
        assert self._files.client_ca is not None
        crl = x509.load_pem_x509_crl(content)
        authorities = x509.load_pem_x509_certificates(self._files.client_ca.read_bytes())
        if not any(crl.is_signature_valid(one.public_key()) for one in authorities):  # type: ignore[arg-type]
            raise ValueError("it is not signed by the nodes' authority")
        return frozenset(one.serial_number for one in crl)


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate that OpenSSL has verified, as far as it is judged here."""

    serial: int
    organisation: str
    name: str
    until: datetime


def read_certificate(der: bytes) -> ClientCertificate:
    """Who a certificate names: organisation (O) and common name (CN), where it has them."""
    found = x509.load_der_x509_certificate(der)

    def text(oid: x509.ObjectIdentifier) -> str:
        values = [str(one.value) for one in found.subject.get_attributes_for_oid(oid)]
        return values[0] if len(values) == 1 else ""

    names = text(NameOID.ORGANIZATION_NAME), text(NameOID.COMMON_NAME)
    return ClientCertificate(found.serial_number, *names, found.not_valid_after_utc)


def judge_certificate(der: bytes | None, revoked: Revoked, organisation: str) -> None:
    """Refuse a node's request whose connection has no certificate of the node's organisation that holds now.

    Raises:
        AccessError: ``certificate_refused``, which tells the caller nothing more; its note goes into the audit log.
    """
    why = _fault(der, revoked, organisation)
    if why:
        log.warning("a node's certificate is refused: %s", why)
        error = AccessError(
            "certificate_refused",
            "The request needs a client certificate of the node's organisation.",
            "",
            "Start the node with its certificate: `foedus node certificate`; the coordinator's log has the reason.",
        )
        error.add_note(why)
        raise error


def _fault(der: bytes | None, revoked: Revoked, organisation: str) -> str:
    if der is None:
        return "there is none"
    found = read_certificate(der)
    if found.serial in revoked:
        return f"{found.serial:x} is revoked"
    if found.until < datetime.now(UTC):
        return f"{found.serial:x} has expired since the connection began"
    if found.organisation != organisation:
        return f"{found.serial:x} is of {found.organisation!a}, the node of {organisation!a}"
    return ""


def _unusable(error: Exception) -> ConfigError:
    return ConfigError(
        "certificate_unusable", "The list of revoked certificates cannot be used.", str(error), "Name a PEM file."
    )
