"""The table of how work goes: what nodes stream of it. Nothing depends on it, and each run keeps only so much."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, Index, Integer, String, Table

from foedus.store.tables import Big, metadata

progress = Table(
    "progress",
    metadata,
    Column("seq", Big, primary_key=True, autoincrement=True),
    Column("run_id", String, nullable=False),
    Column("round", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("client", String, nullable=False),
    Column("node_id", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("points", JSON, nullable=False),
    Column("cpu", Float, nullable=False),
    Column("memory", Big, nullable=False),
    Column("lines", JSON, nullable=False),
    Column("size", Integer, nullable=False),
    Index("progress_of_run", "run_id", "seq", "size"),
    Index("progress_of_node", "node_id", "at"),
    sqlite_autoincrement=True,
)
