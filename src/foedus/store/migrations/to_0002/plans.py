"""Revision 0002: a run may bring its author's signature of the plan, and a node says which it has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add what the tables lack."""
    op.add_column("runs", sa.Column("plan_signature", sa.JSON(), nullable=True))
    op.add_column("approvals", sa.Column("signers", sa.JSON(none_as_null=True), nullable=True))
