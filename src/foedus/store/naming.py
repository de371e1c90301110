"""Whose the clients' names are: a name belongs to the node that had it first, until an admin releases it."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table

from foedus.store.tables import metadata

client_names = Table(
    "client_names",
    metadata,
    Column("client", String, primary_key=True),
    Column("node_id", String, nullable=False, index=True),
    Column("since", Float, nullable=False),
)
