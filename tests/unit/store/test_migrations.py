"""Migrations make what the tables declare, lose nothing, and refuse a database that a newer release has written."""

from __future__ import annotations

import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import pytest
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.runtime.migration import MigrationContext
from sqlalchemy import JSON, Connection, MetaData, insert, inspect, select, text

import foedus
from foedus import store as package
from foedus.domain.errors import ConflictError
from foedus.store.engines import make_engine
from foedus.store.migrations import forward as migrations
from foedus.store.migrations.versions import r0001_released as released
from foedus.store.tables import metadata, schema
from foedus.store.unit_of_work import Store

for module in pkgutil.iter_modules(package.__path__):
    import_module(f"foedus.store.{module.name}")  # every table of the database is in one of these


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def differences(connection: Connection) -> str:
    """The operations that are missing, as code; empty where the database is as declared."""
    context = MigrationContext.configure(connection)
    operations = produce_migrations(context, metadata).upgrade_ops
    assert operations is not None
    return "" if operations.is_empty() else "\n" + render_python_code(operations)


def test_migrations_make_what_the_tables_declare(database_url: str) -> None:
    with connected(database_url) as connection:
        migrations.migrate(connection)
        assert differences(connection) == ""


def test_the_first_revision_is_the_release(database_url: str) -> None:
    with connected(database_url) as connection:
        migrations.migrate(connection, to="0001")
        context = MigrationContext.configure(connection)
        operations = produce_migrations(context, released.metadata).upgrade_ops
        assert operations is not None and operations.is_empty()


def _fill(connection: Connection, tables: MetaData) -> dict[str, list[dict[str, object]]]:
    """A row in every table."""
    rows: dict[str, list[dict[str, object]]] = {}
    for table in tables.sorted_tables:
        values = {
            column.name: {"k": [1, "ü"]} if isinstance(column.type, JSON) else column.type.python_type(1)
            for column in table.columns
        }
        connection.execute(insert(table).values(**values))
        rows[table.name] = [dict(row._mapping) for row in connection.execute(select(table))]
    return rows


@pytest.mark.parametrize("alembic", [False, True], ids=["of the release", "of revision 0001"])
def test_a_database_of_the_release_goes_forward_without_loss(database_url: str, alembic: bool) -> None:
    if not alembic and database_url.startswith("postgresql"):
        pytest.skip("the release knew SQLite alone")
    with connected(database_url) as connection:
        if alembic:
            migrations.migrate(connection, to="0001")
        else:
            released.metadata.create_all(connection)
        before = _fill(connection, released.metadata)
    store = Store(database_url, migrate=True)
    with store.reading() as tx:
        assert not migrations.pending(tx)
        assert differences(tx) == ""
        for name, rows in before.items():
            if name not in (schema.name, "api_tokens"):  # the tokens have become users: see test_migrated_people.py
                columns = ", ".join(f'"{column}"' for column in rows[0])
                found = tx.execute(select(text(columns)).select_from(text(f'"{name}"'))).mappings().one()
                kept = {key: value for key, value in found.items() if not isinstance(rows[0][key], dict)}
                assert kept == {key: value for key, value in rows[0].items() if not isinstance(value, dict)}, name
        assert tx.execute(select(schema)).all() == [(int(migrations.head()), foedus.__version__)]
    assert store.migrate() == ()
    store.close()


def test_a_newer_schema_is_refused_with_the_release_that_is_needed(database_url: str) -> None:
    with connected(database_url) as connection:
        migrations.migrate(connection)
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("UPDATE foedus_schema SET version = 9999, release = '7.8.9'"))
    with pytest.raises(ConflictError) as refusal:
        Store(database_url, migrate=True)
    assert refusal.value.code == "schema_newer"
    assert "9999" in str(refusal.value) and "7.8.9" in refusal.value.fix


def test_the_release_refuses_what_this_one_has_migrated(database_url: str) -> None:
    """Its start-up reads one number, and refuses one above its own, which is 1."""
    with connected(database_url) as connection:
        migrations.migrate(connection)
        assert connection.execute(text("SELECT version FROM foedus_schema")).scalar_one() > 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_case_10_a_migration_that_is_killed_has_done_all_or_nothing_and_is_finished_by_the_next(
    database_url: str, when: str
) -> None:
    """A real process dies when every operation was done and the commit was not, or just was; an older one refuses."""
    with connected(database_url) as connection:
        released.metadata.create_all(connection)
        before = _fill(connection, released.metadata)
    command = [sys.executable, "-m", "foedus", "coordinator", "migrate"]
    environment = {**os.environ, "PYTHONPATH": "src", "FOEDUS_COORDINATOR_DATABASE": database_url}
    crash = {"FOEDUS_CRASH": f"commit:migrate:{when}:1"}
    assert subprocess.run(command, env=environment | crash, check=False).returncode == -signal.SIGKILL
    with connected(database_url) as connection:
        if when == "before":
            assert sorted(inspect(connection).get_table_names()) == sorted(released.metadata.tables)
            assert connection.execute(select(released.schema.c.version)).scalars().all() == [1]
        else:
            assert differences(connection) == ""
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 0
    with connected(database_url) as connection:
        assert differences(connection) == ""
        kept = connection.execute(select(released.runs.c.id, released.runs.c.spec)).one()
        assert dict(kept._mapping) == {name: before["runs"][0][name] for name in ("id", "spec")}
        assert connection.execute(select(schema.c.version)).scalar_one() > 1, "which the release refuses"


def test_postgresql_is_migrated_when_it_is_asked_for_and_not_by_a_start(postgres_url: str) -> None:
    with pytest.raises(ConflictError) as refusal:
        Store(postgres_url)
    assert refusal.value.code == "schema_older"
    assert "foedus coordinator migrate" in refusal.value.fix
    Store(postgres_url, migrate=True).close()
    Store(postgres_url).close()
