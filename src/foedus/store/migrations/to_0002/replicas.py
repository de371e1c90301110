"""Replicas of the coordinator on one database: who leads a run, and which release made the schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add the leaders of runs, and the release beside the schema's number."""
    op.add_column("foedus_schema", sa.Column("release", sa.String(), nullable=False, server_default=""))
    op.create_table(
        "leaders",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("replica", sa.String(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id"),
    )
