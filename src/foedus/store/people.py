"""The tables of people: organisations, users, and the API tokens that speak for them."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, Integer, String, Table, UniqueConstraint

from foedus.store.tables import metadata

organisations = Table(
    "organisations",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("operates", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
)
"""``operates``: the organisation that runs this coordinator; there is one, made at the first start."""

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("org_id", String, nullable=False, index=True),
    Column("roles", JSON, nullable=False),
    Column("issuer", String),
    Column("subject", String),
    Column("created_at", Float, nullable=False),
    Column("disabled_at", Float),
    UniqueConstraint("issuer", "subject"),
)
"""``issuer`` and ``subject`` are how an OpenID provider knows the user; none where nobody has logged in that way."""

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("hash", String, nullable=False, unique=True),
    Column("user_id", String, nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("actions", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
    Column("revoked_at", Float),
)
"""``kind`` is ``api``, or ``session`` of a login. ``actions`` narrow what the token may do; none: all of its user's."""
