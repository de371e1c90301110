"""Migrations of the coordinator's database with Alembic (https://alembic.sqlalchemy.org): forward from every release.

A revision stands in ``versions``, and never changes once it was released. Its operations run in one transaction on
SQLite and PostgreSQL alike: a process that is killed in the middle has changed nothing.

``alembic_version`` holds the revision. ``foedus_schema`` says the same as a number, and which release migrated last:
releases of before Alembic read it and refuse what is newer, and this one tells which release is needed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text

from foedus.domain.errors import ConflictError
from foedus.store.tables import schema

FIRST = "0001"
_one_at_a_time = threading.Lock()
"""Alembic's ``op`` is one for the whole process."""


@dataclass(frozen=True)
class Revision:
    """A step: its id, and what it does in a line."""

    id: str
    title: str


def revisions() -> tuple[Revision, ...]:
    """Every revision that this foedus knows, the first first."""
    found = _script().walk_revisions()
    return tuple(Revision(step.revision, (step.doc or "").split("\n")[0]) for step in reversed(list(found)))


def head() -> str:
    """The newest revision."""
    return revisions()[-1].id


def current(connection: Connection) -> str | None:
    """The revision of a database; None for an empty one.

    Raises:
        ConflictError: ``schema_newer``.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None and inspect(connection).has_table(schema.name):
        found = FIRST  # made by a release of before Alembic
    if found is not None and found not in {step.id for step in revisions()}:
        raise _newer(connection, found)
    return found


def pending(connection: Connection) -> tuple[Revision, ...]:
    """What a database lacks.

    Raises:
        ConflictError: ``schema_newer``.
    """
    have = current(connection)
    return tuple(step for step in revisions() if have is None or step.id > have)


def migrate(connection: Connection, to: str = "head") -> tuple[Revision, ...]:
    """Bring a database to the newest revision (or ``to``), in the caller's transaction; returns the steps taken.

    Raises:
        ConflictError: ``schema_newer``.
    """
    with _one_at_a_time:
        have, script = current(connection), _script()
        context = MigrationContext.configure(connection)
        if have is not None and context.get_current_revision() is None:
            context.stamp(script, have)

        def steps(revision: Any, _: MigrationContext) -> Any:
            return script._upgrade_revs(to, revision)

        with EnvironmentContext(_config(), script, fn=steps) as environment:
            environment.configure(connection=connection)
            environment.run_migrations()
        now = current(connection)
    return tuple(step for step in revisions() if (have or "") < step.id <= (now or ""))


def _newer(connection: Connection, found: str) -> ConflictError:
    columns = {column["name"] for column in inspect(connection).get_columns(schema.name)}
    release = connection.execute(select(schema.c.release)).scalar() if "release" in columns else None
    return ConflictError(
        "schema_newer",
        f"The database has schema version {found[:40]}; this foedus knows {head()}.",
        f"foedus {release or 'of a later release'} has written it.",
        f"Start foedus {release} or newer, or use another database." if release else "Start the newer version.",
    )


def note_release(connection: Connection, number: int, release: str) -> None:
    """Say in ``foedus_schema`` which schema this is now, and which release can read it; a revision's last step."""
    connection.execute(text("DELETE FROM foedus_schema"))
    values = {"number": number, "release": release}
    connection.execute(text("INSERT INTO foedus_schema (version, release) VALUES (:number, :release)"), values)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
