"""TLS as a client does it: whom to trust, what to show, and what a broken handshake most likely means.

Pure but for reading certificates: nothing here opens a connection. Nodes and people's programs share it.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from foedus.domain.errors import ConfigError, UnreachableError
from foedus.wire.http import malformed, unreachable

CA_FILE = "FOEDUS_CA_FILE"
"""Names a PEM file with the authority that signed the coordinator's certificate, beside those the system trusts."""


@dataclass(frozen=True)
class Trust:
    """PEM files: an authority to trust beside the system's, and a certificate of one's own with its key."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def trust_of_environment() -> Trust:
    """The authority that ``FOEDUS_CA_FILE`` names, where it does."""
    named = os.environ.get(CA_FILE)
    return Trust(Path(named) if named else None)


def client_context(url: str, trust: Trust) -> ssl.SSLContext | bool:
    """How a connection to ``url`` is verified; without https there is nothing to.

    Raises:
        ConfigError: ``certificate_unusable``.
    """
    if urlsplit(url).scheme != "https":
        return False
    context = httpx.create_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load(context, trust)
    return context


def load(context: ssl.SSLContext, trust: Trust) -> None:
    """Take what the files hold now; new connections are made with it.

    Raises:
        ConfigError: ``certificate_unusable``.
    """
    try:
        if trust.authority is not None:
            context.load_verify_locations(trust.authority)
        if trust.certificate is not None:
            context.load_cert_chain(trust.certificate, trust.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "certificate_unusable",
            "A certificate or its key cannot be used.",
            f"{type(error).__name__}: {error}",
            "Name PEM files that belong together; a key has no password.",
        ) from error


def broken(url: str, error: Exception) -> UnreachableError:
    """What an error of the connection means: nobody there, TLS that is not believed, or one side without TLS."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return UnreachableError(
            "tls_failed",
            f"The certificate of {url} is not trusted here.",
            text,
            f"If a private authority signed it, name that authority's file in {CA_FILE}; a node's is in its kit.",
        )
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text or "HTTP_REQUEST" in text:
        return UnreachableError(
            "tls_missing",
            f"Who listens at {url} does not speak TLS.",
            "The URL begins with https://, and the answer was no TLS: perhaps a coordinator without a certificate.",
            "On one machine use http://; otherwise start the coordinator with --tls-cert and --tls-key.",
        )
    if "certificate required" in text.lower() or "CERTIFICATE_REQUIRED" in text or "ALERT" in text.upper():
        return UnreachableError(
            "tls_failed",
            f"{url} does not accept this side's certificate.",
            text,
            "Use a certificate that the coordinator's authority for nodes signed, and that is valid today.",
        )
    if url.startswith("http://") and isinstance(error, httpx.RemoteProtocolError):
        return UnreachableError(
            "coordinator_unreachable",
            f"{url} closes the connection without an answer.",
            "The URL begins with http://; a coordinator with a certificate answers TLS alone.",
            "If it has one, write https://; otherwise see its log.",
        )
    if isinstance(error, httpx.InvalidURL | httpx.DecodingError | httpx.UnsupportedProtocol):
        return malformed(url, text)
    return unreachable(url, text or type(error).__name__)
