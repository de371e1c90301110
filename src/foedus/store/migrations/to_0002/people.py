"""People: organisations and users with roles, whom runs, nodes and tokens belong to; the audit log.

What a coordinator of the first release holds becomes the operating organisation's. Its tokens stay valid: each name
that has any becomes a user with the roles that the tokens had.
"""

from __future__ import annotations

import secrets
import time

import sqlalchemy as sa
from alembic import op

OWNED = ("runs", "nodes", "join_tokens")
LIFE = 90 * 86400.0
"""Seconds for which the tokens of the first release, which had no end, are still valid."""


def upgrade() -> None:
    """Add the tables and columns of people, and give everything that is there an owner."""
    op.create_table(
        "organisations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("operates", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=True),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("disabled_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("issuer", "subject"),
        sa.UniqueConstraint("name"),
    )
    op.create_index("ix_users_org_id", "users", ["org_id"])
    for table in OWNED:
        for column in ("owner_id", "org_id"):
            op.add_column(table, sa.Column(column, sa.String(), nullable=False, server_default=""))
    _tokens()
    _audit()


def _tokens() -> None:
    op.rename_table("api_tokens", "api_tokens_0001")
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("actions", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("hash"),
    )
    op.create_index("ix_api_tokens_user_id", "api_tokens", ["user_id"])
    _adopt(op.get_bind())
    op.drop_table("api_tokens_0001")


def _adopt(connection: sa.Connection) -> None:
    """The operating organisation, a user for each name that has a token, and what they own."""
    tables = sa.MetaData()
    tables.reflect(connection, only=("organisations", "users", "api_tokens", "api_tokens_0001", *OWNED))
    of = tables.tables
    rows = connection.execute(sa.select(of["api_tokens_0001"]).order_by("created_at")).all()
    if not rows:
        return
    now, org = time.time(), _new_id("org")
    connection.execute(of["organisations"].insert().values(id=org, name="home", operates=1, created_at=now))
    users: dict[str, str] = {}
    for name in dict.fromkeys(row.name for row in rows):
        users[name] = user = _new_id("us")
        roles = sorted({row.role for row in rows if row.name == name})
        values = {"id": user, "name": name, "org_id": org, "roles": roles, "created_at": now}
        connection.execute(of["users"].insert().values(**values))
    for row in rows:
        values = {
            "id": _new_id("tk"),
            "hash": row.hash,
            "user_id": users[row.name],
            "name": "first",
            "kind": "api",
            "actions": [],
            "created_at": row.created_at,
            "expires_at": now + LIFE,
            "revoked_at": row.revoked_at,
        }
        connection.execute(of["api_tokens"].insert().values(**values))
    first = next((users[row.name] for row in rows if row.role == "admin"), next(iter(users.values())))
    for table in OWNED:
        connection.execute(of[table].update().values(owner_id=first, org_id=org))
    runs = of["runs"]
    for name, user in users.items():
        connection.execute(runs.update().where(runs.c.author == name).values(owner_id=user))


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_audit_org_id", "audit", ["org_id"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(10)}"
