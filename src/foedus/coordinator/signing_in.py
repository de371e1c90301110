"""A login becomes a token, and a token ends. Use cases take a transaction and return values."""

from __future__ import annotations

import time

from sqlalchemy import Connection, update

from foedus.coordinator.login import RANK, Known
from foedus.coordinator.tokens import create_token
from foedus.store.tables import api_tokens
from foedus.wire.messages import NewToken, Token
from foedus.wire.signing import hash_secret


def sign_in(tx: Connection, known: Known, hours: float) -> Token:
    """A new token for who logged in."""
    roles = {role for _, role in known.grants}
    role = next((role for role in RANK if role in roles), RANK[-1])
    return create_token(tx, NewToken.model_validate({"name": known.name, "role": role}))


def sign_out(tx: Connection, secret: str) -> None:
    """End a token: it is refused from now on."""
    tx.execute(update(api_tokens).where(api_tokens.c.hash == hash_secret(secret)).values(revoked_at=time.time()))
