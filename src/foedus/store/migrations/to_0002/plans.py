"""Revision 0002: a run may bring its author's signature of the plan."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add what the tables lack."""
    op.add_column("runs", sa.Column("plan_signature", sa.JSON(), nullable=True))
