"""The format of a node's home: an older one is brought forward, a newer one is refused with the release that it needs.

What a release adds to the vault are tables and columns; they come to be when an owner's command or the agent first
opens the home. Whoever changes what is in the home otherwise raises :data:`FORMAT`. Free of torch.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

import foedus
from foedus.domain.errors import ConflictError
from foedus.node.tables import home as row_of_home
from foedus.node.tables import metadata
from foedus.store.unit_of_work import Store

FORMAT = 2
"""1 (release 0.1.0): the log is a table. 2: it is files, and the vault knows its format."""


def bring_forward(store: Store, home: Path) -> None:
    """Make the vault in ``home`` one of this release, where it is not; what it holds stays.

    Raises:
        ConflictError: ``home_newer``.
    """
    with store.reading() as db:
        found = db.execute(select(row_of_home.c.format, row_of_home.c.release)).one_or_none()
    if found is not None and found.format > FORMAT:
        raise ConflictError(
            "home_newer",
            f"The node's home {home} has format {found.format}; foedus {foedus.__version__} reads up to {FORMAT}.",
            "A newer release has worked with it.",
            f"Use foedus {found.release} or newer, or a copy of the home from before.",
        )
    if found is not None and found.format == FORMAT:
        return
    with store.transaction("node_format") as db:
        add_columns(db)
        values = {"format": FORMAT, "release": foedus.__version__}
        if db.execute(update(row_of_home).values(values)).rowcount == 0:
            db.execute(insert(row_of_home).values(id=1, **values))


def add_columns(db: Connection) -> None:
    """Add the columns that the tables declare and the file lacks; each may be NULL, or has a ``server_default``."""
    there = inspect(db)
    for table in metadata.sorted_tables:
        known = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                declared = CreateColumn(column).compile(dialect=db.dialect)
                db.execute(text(f'ALTER TABLE "{table.name}" ADD COLUMN {declared}'))
