"""Transactions. One per change of state; its commit is a crash point; listeners hear of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import DatabaseError, DataError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from foedus.domain.errors import ConflictError, FoedusError, StorageError, UnreachableError, UsageError
from foedus.domain.spans import span
from foedus.store import crashpoints
from foedus.store.engines import CONNECTIONS, begin_writing, is_postgres, make_engine, single
from foedus.store.migrations import forward
from foedus.store.notices import Notices
from foedus.store.tables import metadata

Listener = Callable[[Collection[str]], None]
_NOTICES = "foedus_notices"

DISK_FULL = "53100"
BUSY = frozenset({"40001", "40P01", "53300", "55P03", "57014"})
"""PostgreSQL's states of who lost a race or waited too long: serialization, deadlock, connections, locks, time.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""
GONE = ("08", "25P03", "57P")
"""How states begin that mean a connection was ended: broken, idle in a transaction, by an operator or a shutdown."""


class Store:
    """A database. ``sqlite:///PATH`` is made when it is not there, and brought to the newest schema.

    PostgreSQL is migrated only where ``migrate`` says so: a replica of an older release may still be at work on it,
    and whoever runs a database server wants to take a backup first.
    """

    def __init__(
        self, url: str, tables: MetaData = metadata, *, migrate: bool = False, connections: int = CONNECTIONS
    ) -> None:
        self._engine = make_engine(url, connections)
        self.shared = is_postgres(self._engine)
        """Whether other processes write here at the same time."""
        self._writing = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self.shared else {}
        self._reading = self._engine.execution_options(**reading)
        self._single = single(self._engine)
        self._listeners: list[Listener] = []
        self._always: Callable[[str], Collection[str]] = lambda name: ()
        self._notices = Notices(make_engine(url, 1)) if self.shared else None
        try:
            self._prepare(tables, migrate)
        except BaseException:
            self.close()
            raise

    def migrate(self) -> tuple[forward.Revision, ...]:
        """Bring the schema to the newest revision in one transaction; returns the steps taken.

        Raises:
            ConflictError: ``schema_newer``.
        """
        with self.reading() as connection:
            if not forward.pending(connection):
                return ()
        with self.transaction("migrate") as connection:
            return forward.migrate(connection)

    def on_commit(self, listener: Listener, always: Callable[[str], Collection[str]] = lambda name: ()) -> None:
        """Call ``listener(notices)`` after each commit that has any, in the thread that committed.

        Where processes share the database, it is called for their commits as well, in a thread of its own. The notices
        are those that the transaction left with :func:`notice`, and those that a commit of its name ``always`` has.
        """
        self._listeners.append(listener)
        self._always = always
        if self._notices is not None:
            self._notices.listen(listener)

    @contextmanager
    def transaction(self, name: str, scope: str | None = None) -> Iterator[Connection]:
        """A transaction that writes; it is committed at the end of the block and rolled back by any error.

        It is alone; with a ``scope`` (the id of a run, for instance) it is alone within that, and must write nothing
        that another scope reads and writes. See :mod:`foedus.store.engines`.

        Raises:
            StorageError: ``disk_full``, ``database_failed``. UsageError: ``value_refused``.
            UnreachableError: ``database_busy``; ``database_unreachable``, after which it may have been committed or
                not: whoever asks again finds out, because every request that writes may be sent twice.
        """
        with span("store", transaction=name), _errors(), self._writing.begin() as connection:
            begin_writing(connection, scope)
            notices = connection.info[_NOTICES] = set()
            yield connection
            notices.update(self._always(name))
            if self._notices is not None:
                self._notices.tell(connection, notices)
            crashpoints.reach("commit", name, "before")
        crashpoints.reach("commit", name, "after")
        if notices:
            for listener in self._listeners:
                listener(sorted(notices))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, from one snapshot.

        Raises:
            StorageError, UnreachableError: as :meth:`transaction`.
        """
        with span("store", transaction="read"), _errors(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def statements(self) -> Iterator[Connection]:
        """A connection on which every statement is a transaction of its own, that nobody hears of.

        On PostgreSQL it takes one round trip where a transaction takes four: for what every request asks, and for rows
        that no transaction writes by what it read of them.

        Raises:
            StorageError, UnreachableError: as :meth:`transaction`.
        """
        with span("store", transaction="statements"), _errors(), self._single.connect() as connection:
            yield connection

    def close(self) -> None:
        """Give back every connection, and hear no more."""
        if self._notices is not None:
            self._notices.close()
        self._engine.dispose()

    def _prepare(self, tables: MetaData, migrate: bool) -> None:
        if tables is not metadata:
            with _errors(), self._writing.begin() as connection:
                tables.create_all(connection)
        elif migrate or not self.shared:
            self.migrate()
        else:
            self._check_migrated()

    def _check_migrated(self) -> None:
        with self.reading() as connection:
            lacking = forward.pending(connection)
        if lacking:
            raise ConflictError(
                "schema_older",
                f"The database lacks {', '.join(step.id for step in lacking)} of this foedus' schema.",
                "Replicas of an older release may still be at work on it.",
                "Stop them, take a backup, and run `foedus coordinator migrate`.",
            )


def notice(connection: Connection, *names: str) -> None:
    """Have the listeners told of ``names`` once this transaction is committed, and not if it is rolled back."""
    connection.info[_NOTICES].update(names)


def look_at_schema(url: str) -> tuple[str | None, tuple[forward.Revision, ...]]:
    """The revision that a database has (None: it is empty), and those that it lacks.

    Raises:
        ConflictError: ``schema_newer``.
        StorageError, UnreachableError: as :meth:`Store.transaction`.
    """
    engine = make_engine(url)
    try:
        with _errors(), engine.connect() as connection:
            return forward.current(connection), forward.pending(connection)
    finally:
        engine.dispose()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as error:
        raise _busy() from error
    except DataError as error:
        why = "A text holds a zero character, or a number is out of range."
        raise UsageError("value_refused", "A value cannot be stored.", why, "Send it without.") from error
    except (DatabaseError, InterfaceError) as error:
        # Its other subclasses say that a statement is wrong, or that a row exists: the caller's to judge.
        if type(error) not in (DatabaseError, OperationalError, InternalError, InterfaceError):
            raise
        raise _translated(error) from error


def _translated(error: DatabaseError | InterfaceError) -> FoedusError:
    state, said = getattr(error.orig, "sqlstate", ""), str(error.orig)  # SQLite has none; None: no connection
    if state == DISK_FULL or "is full" in said:
        return StorageError("disk_full", "The disk is full.", "", "Make room; nothing that was confirmed is lost.")
    if state in BUSY or (state == "" and ("locked" in said or "busy" in said)):
        return _busy()
    if state is not None and not state.startswith(GONE):
        return StorageError(
            "database_failed", "The database cannot be used.", said, "Check the folder and its permissions."
        )
    return UnreachableError(
        "database_unreachable",
        "The database does not answer just now.",
        "The connection to it broke, or could not be made.",
        "Try again in a moment; nothing that was confirmed is lost.",
    )


def _busy() -> UnreachableError:
    return UnreachableError("database_busy", "The database is busy.", "", "Try again in a moment.")
