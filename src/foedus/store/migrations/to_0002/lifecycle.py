"""The life of runs and rounds: numbered events, attempts of rounds, webhooks and their outbox."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

KINDS = {"phase_opened": "round_reporting", "phase_closed": "round_aggregating", "phase_abandoned": "round_abandoned"}
"""What the release called steps of a round."""

KEPT = ("status", "reason", "round", "attempt", "phase", "metrics")


def upgrade() -> None:
    """Add the tables, and give the events that are there their numbers and the form of today."""
    op.create_table(
        "round_attempts",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("began_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "round", "attempt"),
    )
    _add_webhooks()
    op.add_column("runs", sa.Column("started_at", sa.Float()))
    op.add_column("runs", sa.Column("told", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("events", sa.Column("number", sa.Integer(), nullable=False, server_default="0"))
    _number_events(op.get_bind())
    with op.batch_alter_table("events") as events:
        events.alter_column("number", server_default=None)
        events.create_unique_constraint("events_number", ["run_id", "number"])


def _add_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("claim", sa.String()),
        sa.Column("claimed_until", sa.Float()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_webhooks_run_id", "webhooks", ["run_id"])
    op.create_table(
        "deliveries",
        sa.Column("webhook_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("webhook_id", "number"),
    )
    op.create_index("deliveries_due", "deliveries", ["status", "next_at"])


def _number_events(connection: sa.Connection) -> None:
    names = ("seq", "run_id", "number", "kind", "at")
    events = sa.table("events", *map(sa.column, names), sa.column("data", sa.JSON))
    runs = sa.table("runs", *map(sa.column, ("id", "told", "started_at", "initial_model")))
    models = {row.id: row.initial_model for row in connection.execute(sa.select(runs))}
    told: dict[str, int] = {}
    started: dict[str, float] = {}
    for row in connection.execute(sa.select(events).order_by(events.c.seq)).all():
        number = told[row.run_id] = told.get(row.run_id, 0) + 1
        if row.kind == "run_started":
            started.setdefault(row.run_id, row.at)
        values = {"number": number, "data": _as_today(row, number, models.get(row.run_id, ""))}
        connection.execute(sa.update(events).where(events.c.seq == row.seq).values(**values))
    for run, number in told.items():
        values = {"told": number, "started_at": started.get(run)}
        connection.execute(sa.update(runs).where(runs.c.id == run).values(**values))


def _as_today(row: Any, number: int, model: str) -> dict[str, Any]:
    kept = {key: row.data[key] for key in KEPT if key in row.data}
    kind = KINDS.get(row.kind, row.kind)
    return {**kept, "id": number, "kind": kind, "run": row.run_id, "at": row.at, "model": model}
