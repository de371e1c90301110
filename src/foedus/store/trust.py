"""The table of keys that were replaced. Times are seconds since the epoch (UTC)."""

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
