"""Tables of the life of runs: attempts of rounds, webhooks, and the outbox of what each webhook is still to be told."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, Index, Integer, String, Table

from foedus.store.tables import metadata

round_attempts = Table(
    "round_attempts",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("stage", String, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("began_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)
"""Each attempt of a round, and where it is in :class:`foedus.domain.lifecycle.RoundStage`."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", String, nullable=False, index=True),
    Column("url", String, nullable=False),
    Column("secret", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("delivered", Integer, nullable=False, server_default="0"),
    Column("claim", String),
    Column("claimed_until", Float),
)
"""Who wants to be told of a run. ``claim``: the sender that is at work for it, until ``claimed_until``."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("webhook_id", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("body", JSON, nullable=False),
    Column("status", String, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Float, nullable=False),
    Column("error", String, nullable=False, default=""),
    Index("deliveries_due", "status", "next_at"),
)
"""The outbox: an event that a webhook is to be told and was not yet, by the event's number; ``pending`` or ``dead``."""
