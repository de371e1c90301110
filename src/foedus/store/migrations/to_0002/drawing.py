"""Schedules that draw: whom a draw asked, and asks that outlive the phase in which they were made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add when an ask was made, whether it carries and which event told of it; whom an event asked, and staleness."""
    op.add_column("assignments", sa.Column("asked_at", sa.Float()))
    op.add_column("assignments", sa.Column("carries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("assignments", sa.Column("heard", sa.BigInteger().with_variant(sa.Integer(), "sqlite")))
    op.add_column("phase_events", sa.Column("clients", sa.JSON()))
    op.add_column("phase_events", sa.Column("staleness", sa.Integer(), nullable=False, server_default="0"))
