"""Transactions. One per change of state; its commit is a crash point; listeners hear of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, insert, select
from sqlalchemy.exc import DatabaseError, OperationalError

from foedus.domain.errors import ConflictError, StorageError
from foedus.store import crashpoints
from foedus.store.tables import SCHEMA_VERSION, metadata, schema

Listener = Callable[[str], None]


class Store:
    """A database. ``sqlite:///PATH`` is made when it is not there."""

    def __init__(self, url: str, tables: MetaData = metadata) -> None:
        self._engine = _engine(url)
        self._writing = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        self._listeners: list[Listener] = []
        with self._errors(), self._engine.begin() as connection:
            tables.create_all(connection)
            if tables is metadata:
                _check_version(connection)

    def on_commit(self, listener: Listener) -> None:
        """Call ``listener(name)`` after each commit, in the thread that committed."""
        self._listeners.append(listener)

    @contextmanager
    def transaction(self, name: str) -> Iterator[Connection]:
        """A transaction that writes; it is committed at the end of the block and rolled back by any error.

        Raises:
            StorageError: ``disk_full``, ``database_busy``, ``database_failed``.
        """
        with self._errors(), self._writing.begin() as connection:
            yield connection
            crashpoints.reach("commit", name, "before")
        crashpoints.reach("commit", name, "after")
        for listener in self._listeners:
            listener(name)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, from one snapshot."""
        with self._errors(), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            # Its other subclasses say that a statement is wrong, or that a row exists: the caller's to judge.
            if type(error) not in (DatabaseError, OperationalError):
                raise
            raise _storage_error(error) from error


def _engine(url: str) -> Engine:
    # Threads bound the connections; a pool that ran out would let them wait on each other.
    patient = {"timeout": 30.0, "check_same_thread": False}
    engine = create_engine(url, connect_args=patient, pool_size=8, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def _connected(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine


def _check_version(connection: Connection) -> None:
    found = connection.execute(select(schema.c.version)).scalar()
    if found is None:
        connection.execute(insert(schema).values(version=SCHEMA_VERSION))
    elif found > SCHEMA_VERSION:
        raise ConflictError(
            "schema_newer",
            f"The database has schema version {found}; this foedus knows {SCHEMA_VERSION}.",
            "A newer foedus has written it.",
            "Start the newer version, or use another folder.",
        )


def _storage_error(error: DatabaseError) -> StorageError:
    text = str(error.orig)
    if "full" in text:
        return StorageError("disk_full", "The disk is full.", "", "Make room; nothing that was confirmed is lost.")
    if "locked" in text or "busy" in text:
        return StorageError("database_busy", "The database is busy.", "", "Try again in a moment.")
    return StorageError(
        "database_failed", "The database cannot be used.", text, "Check the folder and its permissions."
    )
