"""What a node's datasets may be among each other: no run should find two of them. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from foedus.domain.errors import ConflictError
from foedus.node.tables import datasets

TOLD_LIMIT = 1000
"""Datasets, and plans, that a greeting has room for."""


def offer(db: Connection, row: Mapping[str, Any]) -> None:
    """Record a dataset, unless it cannot stand beside the others.

    Raises:
        ConflictError: ``dataset_exists``, ``too_many_datasets``, ``tags_overlap``.
    """
    client = row["client"]
    if db.execute(select(func.count()).select_from(datasets)).scalar_one() >= TOLD_LIMIT:
        raise ConflictError("too_many_datasets", f"A node has at most {TOLD_LIMIT} datasets.")
    if db.execute(insert(datasets).values(row).on_conflict_do_nothing()).rowcount == 0:
        raise ConflictError(
            "dataset_exists",
            f"There is a dataset {client} on this node.",
            "",
            f"Choose another name, or remove it first: `foedus node data remove {client}`.",
        )
    _check_tags(db, client, row["tags"])


def _check_tags(db: Connection, client: str, tags: Sequence[str]) -> None:
    """Refuse tags that are equal to another dataset's, among them, or around them: runs could not tell the two apart.

    A run that names only what two have in common finds both all the same; the coordinator refuses that run.
    """
    mine = set(tags)
    for row in db.execute(select(datasets.c.client, datasets.c.tags).where(datasets.c.client != client)):
        others = set(row.tags)
        if mine <= others or others <= mine:
            raise ConflictError(
                "tags_overlap",
                f"The tags of {client} overlap with those of {row.client}, which this node offers already.",
                f"They are {_words(mine)} and {_words(others)}: a run that wants the fewer finds both.",
                "Give each dataset of a node a tag that no other one has.",
            )


def _words(tags: set[str]) -> str:
    return ", ".join(sorted(tags)) or "none"
