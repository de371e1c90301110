"""The table of schemas: what nodes told of the columns of their tables, for runs that are aligned before round 1."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, String, Table

from foedus.store.tables import metadata

schemas = Table(
    "schemas",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("client", String, primary_key=True),
    Column("node_id", String, nullable=False, index=True),
    Column("columns", JSON(none_as_null=True)),
    Column("code", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("told_at", Float, nullable=False),
)
"""``columns`` is none where the node keeps them, and ``code`` and ``reason`` say why; else these are empty."""
