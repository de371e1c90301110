"""Rounds that nothing can lose: replicas, the life of runs, people, storage and trust.

Unreleased: add what you need until it is. A subject has a module of its own in ``foedus.store.migrations.to_0002``
with a function ``upgrade()`` that calls Alembic's ``op`` (``op.create_table``, ``op.add_column`` …; SQLite alters
columns and constraints only within ``with op.batch_alter_table(…)``), and a line in :func:`upgrade` here. New columns
that may not be NULL need a ``server_default``, in the table as well, or an UPDATE for the rows that are there.
``tests/unit/store/test_migrations.py`` holds that the tables come out as ``store/tables.py`` and its neighbours declare
them; where they do not, it prints the operations that are missing, ready to be copied.
"""

from __future__ import annotations

from alembic import op

import foedus
from foedus.store.migrations.forward import note_release
from foedus.store.migrations.to_0002 import (
    aligning,
    drawing,
    facts,
    lifecycle,
    mending,
    people,
    plans,
    progress,
    replicas,
    storage,
    trust,
)

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Subject by subject, each in its module."""
    replicas.upgrade()
    drawing.upgrade()
    facts.upgrade()
    lifecycle.upgrade()
    mending.upgrade()
    storage.upgrade()
    trust.upgrade()
    people.upgrade()
    progress.upgrade()
    plans.upgrade()
    aligning.upgrade()
    note_release(op.get_bind(), int(revision), foedus.__version__)
