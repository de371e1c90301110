"""The tables of blobs beside ``blobs`` and ``uploads``: who brought a blob, and the parts of uploads on their way."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table

from foedus.store.tables import Big, metadata

blob_owners = Table(
    "blob_owners",
    metadata,
    Column("digest", String, primary_key=True),
    Column("actor", String, primary_key=True, index=True),
    Column("at", Float, nullable=False),
)
"""Who has shown, by sending its bytes, to have a blob. Nobody else may name it as theirs, or fetch it for that."""

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload", String, primary_key=True),
    Column("start", Big, primary_key=True, autoincrement=False),
    Column("size", Big, nullable=False),
    Column("part", String, nullable=False),
)
"""What has arrived of an upload, at whichever replica; ``part`` names the bytes, as ``Artifacts.keep_part`` does."""
