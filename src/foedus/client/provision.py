"""Start-up kits: for each site one file with all that it needs to join, signed, and without a private key.

The kit's token is bound to the site's name and organisation, and is used once. Sites compare the signer's fingerprint
with what they were told by another way than the kit itself came.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import BaseModel, ConfigDict, Field

from foedus.client.admin import create_join_token
from foedus.client.http import Connection
from foedus.domain.errors import ConfigError, ConflictError, StorageError
from foedus.domain.names import check_name
from foedus.domain.table import read_toml, validate
from foedus.wire.http import check_url
from foedus.wire.proofs import prove
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.trust import Kit, NewJoinToken, SignedKit, kit_statement

Name = Annotated[str, Field(min_length=1, max_length=64)]


class Site(BaseModel):
    """One site: the name of its node, its organisation, and for how many hours its kit is good."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    organisation: Annotated[str, Field(max_length=64)] = ""
    hours: Annotated[float, Field(gt=0, le=24 * 14, allow_inf_nan=False)] = 72.0


class Sites(BaseModel):
    """SITES.toml: the coordinator as sites reach it, the PEM file of who signed its certificate, and the sites."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    coordinator: Annotated[str, Field(max_length=1000)] = ""
    authority: Annotated[str, Field(max_length=1000)] = ""
    site: Annotated[tuple[Site, ...], Field(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Made:
    """A kit that was written."""

    site: str
    path: Path
    expires_at: str


def provision(connection: Connection, sites_toml: Path, out: Path, private: bytes) -> tuple[Made, ...]:
    """Write ``NAME.kit`` into ``out`` for every site that has none there yet.

    Raises:
        ConfigError: ``config_missing``, ``config_malformed``, ``config_refused``, ``url_malformed``, ``name_refused``,
            ``certificate_unusable``. AccessError: ``tls_required``, or as the coordinator refuses.
        ConflictError: ``kit_exists``.
    """
    sites = validate(Sites, read_toml(sites_toml), str(sites_toml))
    url = check_url(sites.coordinator or connection.url)
    authority, fingerprint = _authority(sites_toml.parent / sites.authority) if sites.authority else ("", "")
    paths = {site.name: out / f"{check_name(site.name, 'site')}.kit" for site in sites.site}
    for path in paths.values():
        if len(paths) < len(sites.site) or path.exists():
            raise ConflictError(
                "kit_exists", f"There is a kit {path} already, or two sites of that name.", "", "Choose another --out."
            )
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    for site in sites.site:
        wanted = NewJoinToken(organisation=site.organisation, name=site.name, hours=site.hours)
        token = create_join_token(connection, wanted)
        kit = Kit(
            name=site.name,
            organisation=site.organisation,
            coordinator=url,
            authority=authority,
            fingerprint=fingerprint,
            token=token.token,
            expires_at=token.expires_at,
        )
        write_private(paths[site.name], sign_kit(kit, private).model_dump_json(indent=2) + "\n")
        made.append(Made(site.name, paths[site.name], kit.expires_at.isoformat()))
    return tuple(made)


def sign_kit(kit: Kit, private: bytes) -> SignedKit:
    """A kit with its signature."""
    text = kit.model_dump_json()
    return SignedKit(kit=text, signer=public_key(private), signature=prove(private, kit_statement(text)))


def signing_key(path: Path) -> bytes:
    """The key that signs kits, made at its first use; it stays with who provisions.

    Raises:
        ConfigError: ``key_file_malformed``.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, generate_key().hex() + "\n")
    try:
        private = bytes.fromhex(path.read_text("ascii").strip())
        public_key(private)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "key_file_malformed", f"{path} holds no key that signs kits.", type(error).__name__, "Name another --key."
        ) from error
    return private


def write_private(path: Path, text: str) -> None:
    """Write a new file that its owner alone can read.

    Raises:
        StorageError: ``file_unwritable``.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StorageError("file_unwritable", f"{path} cannot be written.", error.strerror or "") from error


def _authority(path: Path) -> tuple[str, str]:
    try:
        content = path.read_bytes()
        certificate = x509.load_pem_x509_certificates(content)[0]
        return content.decode("ascii"), certificate.fingerprint(SHA256()).hex()
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(
            "certificate_unusable", f"{path} is no certificate in PEM.", type(error).__name__, "Correct `authority`."
        ) from error
