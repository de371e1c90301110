"""Identity: keys that were replaced, nonces that replicas share, join tokens that are bound."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add the tables of identity, and what a join token is bound to."""
    op.create_table(
        "retired_keys",
        sa.Column("public_key", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("public_key"),
    )
    op.create_index("ix_retired_keys_node_id", "retired_keys", ["node_id"])
    op.create_table(
        "used_nonces",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("nonce", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "nonce"),
    )
    op.create_index("ix_used_nonces_expires_at", "used_nonces", ["expires_at"])
    for name in ("organisation", "name"):
        op.add_column("join_tokens", sa.Column(name, sa.String(), nullable=False, server_default=""))
