"""The coordinator's settings, read once: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from foedus.domain.errors import AccessError, ConfigError
from foedus.wire.http import is_loopback

DEFAULT_PORT = 8470


@dataclass(frozen=True)
class Settings:
    """Where a coordinator keeps things and listens, and its limits in bytes."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    blob_limit: int = 16 << 30
    body_limit: int = 8 << 20

    @property
    def database(self) -> str:
        """The URL of the embedded database."""
        return f"sqlite:///{self.folder / 'coordinator.db'}"

    @property
    def url(self) -> str:
        """Where people and nodes find this coordinator."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls_cert else ''}://{host}:{self.port}"


def read_settings(
    folder: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> Settings:
    """Settings from arguments, else from ``FOEDUS_COORDINATOR_FOLDER``, ``_HOST``, ``_PORT``, ``_TLS_…``.

    Raises:
        AccessError: ``tls_required`` for an address other than loopback without a certificate.
        ConfigError: ``settings_refused``.
    """
    folder = folder or _path("FOLDER") or user_data_path("foedus") / "coordinator"
    host = host or os.environ.get("FOEDUS_COORDINATOR_HOST", "127.0.0.1")
    port = port if port is not None else _port(os.environ.get("FOEDUS_COORDINATOR_PORT", str(DEFAULT_PORT)))
    tls_cert, tls_key = tls_cert or _path("TLS_CERT"), tls_key or _path("TLS_KEY")
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError(
            "settings_refused", "TLS needs a certificate and its key.", "", "Give --tls-cert and --tls-key."
        )
    if tls_cert is None and not is_loopback(host):
        raise AccessError(
            "tls_required",
            f"The address {host} can be reached from other machines.",
            "Without TLS, tokens and models would cross the network in the clear.",
            "Give --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that does TLS.",
        )
    return Settings(folder.absolute(), host, port, tls_cert, tls_key)


def _path(name: str) -> Path | None:
    value = os.environ.get(f"FOEDUS_COORDINATOR_{name}")
    return Path(value) if value else None


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 65536:
        return int(text)
    raise ConfigError("settings_refused", f"The port {text[:20]!a} is not a number from 0 to 65535.")
