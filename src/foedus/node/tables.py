"""The tables of a node's vault. Free of torch."""

from __future__ import annotations

from sqlalchemy import JSON, CheckConstraint, Column, Float, Integer, MetaData, Table, Text

metadata = MetaData()

identity = Table(
    "identity",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("node", Text),
    Column("coordinator", Text),
)

datasets = Table(
    "datasets",
    metadata,
    Column("client", Text, primary_key=True),
    Column("path", Text, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("examples", Integer, nullable=False),
    Column("columns", JSON, nullable=False),
    Column("added_at", Float, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("state", Text, CheckConstraint("state IN ('pending', 'approved', 'rejected')"), nullable=False),
    Column("note", Text, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("decided_at", Float),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("event", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,
)

witness = Table(
    "witness",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("hash", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("broken", Text, nullable=False),
)
"""The newest head of the coordinator's audit log that was verified, and what is wrong with the log since."""
