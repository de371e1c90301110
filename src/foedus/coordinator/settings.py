"""The coordinator's settings, read once: arguments first, then the environment, then a file, then defaults.

A setting has one name everywhere: ``folder`` is ``--folder``, ``FOEDUS_COORDINATOR_FOLDER``, and ``folder`` in the TOML
file that ``--config`` or ``FOEDUS_COORDINATOR_CONFIG`` names. One with a password in it belongs into the file or the
environment, for every user of a machine sees its processes' arguments. A field added to :class:`Settings` is read from
all three places; a table of the file is a field that is a dataclass.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_data_path
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from foedus.coordinator.login_settings import Login
from foedus.coordinator.tls import Files
from foedus.coordinator.webhook_settings import WebhookSettings
from foedus.domain.errors import AccessError, ConfigError
from foedus.store.artifacts import CACHE_ROOM
from foedus.store.engines import CONNECTIONS
from foedus.wire.http import is_loopback
from foedus.wire.messages import INLINE_LIMIT

DEFAULT_PORT = 8470
PREFIX = "FOEDUS_COORDINATOR_"
FILE_LIMIT = 1 << 20


def _replica() -> str:
    """A name that no other process has, and that says where it runs."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:60]
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """Where a coordinator keeps things and listens, and its limits in bytes.

    ``database`` is the URL of a PostgreSQL (``postgresql+psycopg://USER:PASSWORD@HOST/NAME``); without it an SQLite in
    the folder is used. ``connections`` bounds those that this process has to PostgreSQL. ``migrate``: bring
    PostgreSQL to the newest schema at the start. ``replica`` names this process among those on one database, which take
    its runs over when it was silent for ``leader_lease`` seconds.
    ``blobs`` is a bucket, ``s3://BUCKET/PREFIX?endpoint=URL&region=NAME&style=path|virtual&transfer=proxied|presigned``;
    without it blobs are in the folder. ``blob_cache`` is what of a bucket's blobs is kept on disk, in bytes.
    ``idle``: seconds after which a body that does not move is cut off. ``quota_uploads`` and ``quota_bytes`` bound what
    one node or person has on its way and stored. Models and updates of at most ``inline`` bytes travel within messages,
    and need no request of their own. What nothing refers to is removed after ``gc_grace`` seconds; it is
    looked for every ``gc_every`` seconds (0: only by `foedus coordinator gc`).
    ``client_ca`` is the authority of nodes' certificates, which they then must show; ``client_crl`` is what it revoked.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    client_crl: Path | None = None
    login: Login | None = None
    webhooks: WebhookSettings = WebhookSettings()
    blob_limit: int = 16 << 30
    body_limit: int = 8 << 20
    database: str = Field(default="", repr=False)
    connections: Annotated[int, Field(ge=4, le=1000)] = CONNECTIONS
    migrate: bool = False
    replica: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,80}$")] = Field(default_factory=_replica)

    leader_lease: Annotated[float, Field(ge=0.5, le=600)] = 6.0
    blobs: str = Field(default="", repr=False)
    blob_cache: Annotated[int, Field(ge=0)] = CACHE_ROOM
    idle: Annotated[float, Field(ge=0.1, le=3600)] = 60.0
    quota_uploads: Annotated[int, Field(ge=1)] = 64
    quota_bytes: Annotated[int, Field(ge=0)] = 1 << 40
    inline: Annotated[int, Field(ge=0, le=INLINE_LIMIT)] = 1 << 16
    gc_every: Annotated[float, Field(ge=0)] = 600.0
    gc_grace: Annotated[float, Field(ge=0)] = 86_400.0

    @property
    def database_url(self) -> str:
        """The URL of the database."""
        return self.database or f"sqlite:///{self.folder / 'coordinator.db'}"

    @property
    def embedded(self) -> bool:
        """Whether this process is the only one on its database."""
        return self.database_url.startswith("sqlite")

    @property
    def tls_files(self) -> Files | None:
        """The files of certificates; None without TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Files(self.tls_cert, self.tls_key, self.client_ca, self.client_crl)

    @property
    def url(self) -> str:
        """Where people and nodes find this coordinator."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls_cert else ''}://{host}:{self.port}"


def read_settings(given: Mapping[str, Any] | None = None) -> Settings:
    """Settings from arguments by name (None: not given), else the environment, else the file, else defaults.

    Raises:
        AccessError: ``tls_required`` for an address other than loopback without a certificate.
        ConfigError: ``settings_refused``, ``settings_unreadable``.
    """
    arguments = {name: value for name, value in (given or {}).items() if value is not None}
    config = arguments.pop("config", None) or os.environ.get(f"{PREFIX}CONFIG")
    values = {**(_file(Path(config)) if config else {}), **_environment(), **arguments}
    values.setdefault("folder", user_data_path("foedus") / "coordinator")
    try:
        values["folder"] = Path(values["folder"]).absolute()
        settings = TypeAdapter(Settings).validate_python(values)
    except (ValidationError, TypeError) as error:
        raise _refused(_complaints(error)) from None  # the cause would show values, and one may be a password
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError(
            "settings_refused", "TLS needs a certificate and its key.", "", "Give --tls-cert and --tls-key."
        )
    if settings.tls_cert is None and not is_loopback(settings.host):
        raise AccessError(
            "tls_required",
            f"The address {settings.host} can be reached from other machines.",
            "Without TLS, tokens and models would cross the network in the clear.",
            "Give --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that does TLS.",
        )
    return settings


def _environment() -> dict[str, Any]:
    found = {}
    for field in fields(Settings):
        text = os.environ.get(PREFIX + field.name.upper())
        if text is not None and (text or field.name not in ("folder", "tls_cert", "tls_key", "database")):
            found[field.name] = text
    return found


def _file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.loads(file.read(FILE_LIMIT).decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else "It is not TOML."
        raise ConfigError("settings_unreadable", f"{path} cannot be read.", why, "Name another --config.") from None


def _complaints(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return "The folder is no path."
    found = [f"`{'.'.join(map(str, row['loc']))[:100]}`: {row['msg']}" for row in error.errors()[:5]]
    return "; ".join(found)


def _refused(why: str) -> ConfigError:
    return ConfigError("settings_refused", "The coordinator's settings are refused.", why, "See `--help`.")
