"""The settings of logins: which provider, and who may be what here. A claim alone grants nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from foedus.coordinator.oidc import Client
from foedus.coordinator.policy import Role
from foedus.domain.errors import ConfigError

STRICT = ConfigDict(extra="forbid")
Word = Annotated[str, Field(min_length=1, max_length=200)]
Organisation = Annotated[str, Field(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")]


@dataclass(frozen=True, config=STRICT)
class Grant:
    """Whoever's token has ``value`` in ``claim`` (text, or a list of texts) is ``role`` in ``organisation``."""

    claim: Word
    value: Word
    organisation: Organisation
    role: Role


@dataclass(frozen=True, config=STRICT)
class Login:
    """An OpenID Connect provider.

    ``url`` is the coordinator as browsers see it, where a proxy stands before it. ``unknown``: somebody whom no grant
    covers and who is no user yet is refused, or made a user without a role. ``hours``: how long a login holds.
    """

    issuer: Annotated[str, Field(max_length=500)]
    client_id: Word
    client_secret_file: Path | None = None
    url: Annotated[str, Field(max_length=500)] = ""
    scopes: Annotated[str, Field(pattern=r"^openid( [!-~]+)*$", max_length=500)] = "openid profile email"
    name_claim: Word = "preferred_username"
    grants: Annotated[tuple[Grant, ...], Field(max_length=1000)] = ()
    unknown: Literal["refuse", "create"] = "refuse"
    hours: Annotated[float, Field(gt=0, le=720)] = 12.0

    def client(self) -> Client:
        """Who the coordinator is to the provider.

        Raises:
            ConfigError: ``settings_refused`` where the secret cannot be read.
        """
        if self.client_secret_file is None:
            return Client(self.issuer, self.client_id, None, self.scopes)
        try:
            secret = self.client_secret_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "settings_refused",
                "The login provider's secret cannot be read.",
                type(error).__name__,
                "Name its file.",
            ) from error
        return Client(self.issuer, self.client_id, secret, self.scopes)

    def granted(self, claims: Mapping[str, Any]) -> tuple[Grant, ...]:
        """The grants that these claims have."""
        return tuple(grant for grant in self.grants if grant.value in _texts(claims.get(grant.claim)))


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(one for one in values if isinstance(one, str))
