"""Revision 0002: what nodes tell of their tables, and how a run has them read alike."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add what the tables lack."""
    op.add_column("runs", sa.Column("alignment", sa.String(), nullable=True))
    op.create_table(
        "schemas",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("columns", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "client"),
    )
    op.create_index("ix_schemas_node_id", "schemas", ["node_id"])
