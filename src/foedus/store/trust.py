"""The tables of identity: keys that were replaced, and logins under way. Times are seconds since the epoch (UTC)."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table

from foedus.store.tables import metadata

retired_keys = Table(
    "retired_keys",
    metadata,
    Column("public_key", String, primary_key=True),
    Column("node_id", String, nullable=False, index=True),
    Column("until", Float, nullable=False),
)
"""Keys that nodes had before; until ``until`` what they sign is accepted. A key never returns, to any node."""

logins = Table(
    "logins",
    metadata,
    Column("state_hash", String, primary_key=True),
    Column("nonce", String, nullable=False),
    Column("verifier", String, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)
"""Browsers that were sent to the login provider and have not come back; each row is used once."""
