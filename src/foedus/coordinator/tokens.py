"""API tokens of people: made, and recognised. Use cases take a transaction and return values."""

from __future__ import annotations

import time

from sqlalchemy import Connection, func, insert, select

from foedus.coordinator.identities import Person
from foedus.domain.errors import AccessError
from foedus.store.tables import api_tokens
from foedus.wire.messages import NewToken, Token
from foedus.wire.signing import hash_secret, new_secret


def first_admin(tx: Connection) -> Token | None:
    """An admin's token where there is no token yet, at the first start; shown once."""
    if tx.execute(select(func.count()).select_from(api_tokens)).scalar_one():
        return None
    return create_token(tx, NewToken(name="admin", role="admin"))


def create_token(tx: Connection, command: NewToken) -> Token:
    """A token for a person. Only its hash is kept."""
    secret = new_secret("fdp")
    row = {"hash": hash_secret(secret), "name": command.name, "role": command.role, "created_at": time.time()}
    tx.execute(insert(api_tokens).values(**row))
    return Token(name=command.name, role=command.role, token=secret)


def authenticate(tx: Connection, secret: str) -> Person:
    """The person who holds this token.

    Raises:
        AccessError: ``token_refused``.
    """
    columns = (api_tokens.c.name, api_tokens.c.role)
    wanted = select(*columns).where(api_tokens.c.hash == hash_secret(secret), api_tokens.c.revoked_at.is_(None))
    row = tx.execute(wanted).one_or_none()
    if row is None:
        raise AccessError(
            "token_refused", "The token is not known here.", "", "Set FOEDUS_TOKEN to a token of this coordinator."
        )
    return Person(row.name, row.role)
