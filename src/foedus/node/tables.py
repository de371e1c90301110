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
    Column("loading", Text),
    Column("kind", Text, nullable=False, server_default=""),
    Column("options", JSON, nullable=False, server_default="{}"),
    Column("description", Text, nullable=False, server_default=""),
    Column("minimum", Integer, nullable=False, server_default="1"),
    Column("summary", JSON, nullable=False, server_default="[]"),
)

looks = Table(
    "looks",
    metadata,
    Column("client", Text, primary_key=True),
    Column("look", Text, nullable=False),
    Column("digest", Text, nullable=False),
)
"""What a dataset's bytes were when its statistics were taken (:mod:`foedus.node.looks`)."""

begun = Table(
    "begun",
    metadata,
    Column("run", Text, primary_key=True),
    Column("client", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("at", Float, nullable=False),
)
"""The bytes with which a run began to work on a dataset, and about when it last did."""

loadings = Table(
    "loadings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("content", JSON, nullable=False),
    Column("added_at", Float, nullable=False),
)
"""Loading plans; a dataset names the one that it is read by."""

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

home = Table(
    "home",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("format", Integer, nullable=False),
    Column("release", Text, nullable=False),
)
"""One row: the format of the home, and the first release that reads it (see :mod:`foedus.node.formats`)."""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("event", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("facts", JSON),
    sqlite_autoincrement=True,
)
"""Lines of the security log that were committed with a change, until they are in its file; then they go."""

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

grants = Table(
    "grants",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("given_by", Text, CheckConstraint("given_by IN ('owner', 'signature', 'policy')"), nullable=False),
    Column("signer", Text, nullable=False),
    Column("scope", JSON, nullable=False),
    Column("until", Float),
    Column("at", Float, nullable=False),
)
"""How a plan came to be approved, and for what. It stays when the approval is revoked."""

signers = Table(
    "signers",
    metadata,
    Column("key", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("scope", JSON, nullable=False),
    Column("at", Float, nullable=False),
)
"""Authors whose signature of a plan approves it."""

signatures = Table(
    "signatures",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("signer", Text, primary_key=True),
    Column("signature", Text, nullable=False),
)
"""Signatures of plans that came with them, each checked."""
