"""Joining in: what nodes report of themselves, whose a client's name is, and processes that share a node's key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add the facts, the processes of before, and the names; the names of today's datasets are their nodes'."""
    op.add_column("nodes", sa.Column("boot_before", sa.String(), nullable=False, server_default=""))
    op.add_column("nodes", sa.Column("clashes", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("facts", sa.JSON()))
    op.add_column("datasets", sa.Column("batch_size", sa.Integer()))
    op.add_column("datasets", sa.Column("speed", sa.Float()))
    op.create_table(
        "client_names",
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("client"),
    )
    op.create_index("ix_client_names_node_id", "client_names", ["node_id"])
    op.execute("INSERT INTO client_names (client, node_id, since) SELECT client, node_id, 0 FROM datasets")
