"""The coordinator's tables. Times are seconds since the epoch (UTC); JSON columns hold what the messages hold."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, Integer, MetaData, String, Table, UniqueConstraint

metadata = MetaData()

Big = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits: SQLite's integers have them by themselves, and its rows are numbered only where the type is INTEGER."""

schema = Table(
    "foedus_schema",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("release", String, nullable=False, server_default=""),
)
"""One row, written by :mod:`foedus.store.migrations.forward`: the schema's number, and the release that made it."""

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("spec", JSON, nullable=False),
    Column("plan", String, nullable=False),
    Column("plan_blob", String, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("author", String, nullable=False),
    Column("owner_id", String, nullable=False, default="", server_default=""),
    Column("org_id", String, nullable=False, default="", server_default=""),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("data", JSON, nullable=False),
    Column("parts", JSON, nullable=False),
    Column("initial_model", String, nullable=False),
    Column("epoch", Integer, nullable=False, default=0),
    Column("started_at", Float),
    Column("told", Integer, nullable=False, server_default="0"),
    Column("plan_signature", JSON),
    Column("alignment", String),
)

phases = Table(
    "phases",
    metadata,
    Column("run_id", String, nullable=False),
    Column("round", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("clients", JSON, nullable=False),
    Column("status", String, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("deadline", Float),
    Column("broadcast", JSON, nullable=False),
    Column("record", JSON),
    Column("reason", String, nullable=False, default=""),
    UniqueConstraint("run_id", "round", "phase", "attempt"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", String, nullable=False, index=True),
    Column("round", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("client", String, nullable=False),
    Column("node_id", String, index=True),
    Column("status", String, nullable=False),
    Column("token", Integer, nullable=False, default=0),
    Column("lease_until", Float),
    Column("boot", String),
    Column("update", String),
    Column("contribution", JSON),
    Column("receipt", JSON),
    Column("asked_at", Float),
    Column("carries", Integer, nullable=False, server_default="0"),
    Column("heard", Big),
    UniqueConstraint("run_id", "round", "phase", "attempt", "client"),
)

phase_events = Table(
    "phase_events",
    metadata,
    Column("seq", Big, primary_key=True, autoincrement=True),
    Column("run_id", String, nullable=False, index=True),
    Column("round", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("client", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("clients", JSON),
    Column("staleness", Integer, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("seq", Big, primary_key=True, autoincrement=True),
    Column("run_id", String, nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("data", JSON, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("run_id", "number", name="events_number"),
    sqlite_autoincrement=True,
)

rounds = Table(
    "rounds",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("record", JSON, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("model_blob", String, nullable=False),
)

client_states = Table(
    "client_states",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("client", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("round", Integer, nullable=False),
    Column("phase", String, nullable=False),
)

steps = Table(
    "steps",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("part", String, primary_key=True),
    Column("round", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("clients", JSON, nullable=False),
    Column("factors", JSON, nullable=False),
    Column("parts", JSON, nullable=False),
    Column("data", JSON, nullable=False),
)
"""What each part of a run's state was made of, last: by which phase, over whom, from the state (parts, data) before."""

nodes = Table(
    "nodes",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("public_key", String, nullable=False),
    Column("owner_id", String, nullable=False, default="", server_default=""),
    Column("org_id", String, nullable=False, default="", server_default=""),
    Column("status", String, nullable=False),
    Column("joined_at", Float, nullable=False),
    Column("last_seen", Float),
    Column("boot", String, nullable=False, default=""),
    Column("boot_before", String, nullable=False, server_default=""),
    Column("clashes", Integer, nullable=False, server_default="0"),
    Column("facts", JSON),
    Column("version", String, nullable=False, default=""),
)

datasets = Table(
    "datasets",
    metadata,
    Column("client", String, primary_key=True),
    Column("node_id", String, nullable=False, index=True),
    Column("tags", JSON, nullable=False),
    Column("examples", Big, nullable=False),
    Column("batch_size", Integer),
    Column("speed", Float),
)

approvals = Table(
    "approvals",
    metadata,
    Column("node_id", String, primary_key=True),
    Column("digest", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("note", String, nullable=False, default=""),
    Column("signers", JSON(none_as_null=True)),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("hash", String, primary_key=True),
    Column("owner_id", String, nullable=False, default="", server_default=""),
    Column("org_id", String, nullable=False, default="", server_default=""),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
    Column("organisation", String, nullable=False, server_default=""),
    Column("name", String, nullable=False, server_default=""),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", String, primary_key=True),
    Column("size", Big, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float, nullable=False, server_default="0"),
    Column("removing", Integer, nullable=False, server_default="0"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("size", Big, nullable=False),
    Column("actor", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("completed", Integer, nullable=False, default=0),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("actor", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("request_hash", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)
