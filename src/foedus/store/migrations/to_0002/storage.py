"""Where tensors are kept: who brought a blob, parts of uploads, when a blob was last named, and whether it is going."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

_big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add owners and parts; uploads of before had their bytes in files of their own, and begin anew."""
    op.add_column("blobs", sa.Column("used_at", sa.Float(), nullable=False, server_default="0"))
    op.add_column("blobs", sa.Column("removing", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE blobs SET used_at = created_at")
    op.create_table(
        "blob_owners",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "actor"),
    )
    op.create_index("ix_blob_owners_actor", "blob_owners", ["actor"])
    op.create_table(
        "upload_parts",
        sa.Column("upload", sa.String(), nullable=False),
        sa.Column("start", _big, nullable=False, autoincrement=False),
        sa.Column("size", _big, nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("upload", "start"),
    )
    op.execute(
        "INSERT INTO blob_owners (digest, actor, at) "
        "SELECT DISTINCT digest, actor, 0.0 FROM uploads WHERE completed = 1"
    )
    op.execute("DELETE FROM uploads WHERE completed = 0")
