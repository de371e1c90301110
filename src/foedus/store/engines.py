"""The two databases, made alike: SQLite embedded in the process, PostgreSQL for replicas.

On both a writing transaction sees all that was committed before it began, and nobody writes beside it what it reads.
SQLite has one writer at a time by itself. On PostgreSQL a transaction first takes advisory locks, which end with it:

- without a *scope* it is alone, as on SQLite;
- with one it is alone within its scope, beside transactions of other scopes.

So code that names no scope is right without thought, and paths that are walked often name theirs. Locks come before the
first statement, whose snapshot then holds what the lock's last owner committed. A process that stops in the middle of a
transaction is cut off by the database after ``STALLED`` seconds, so that a paused replica holds nobody up for long.
"""

from __future__ import annotations

import hashlib
import time

from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from foedus.domain.errors import ConfigError

STALLED = 10.0
"""Seconds without a statement after which PostgreSQL ends a transaction that writes."""

PATIENCE = 30.0
"""Seconds that a transaction waits for another's end."""

CONNECTIONS = 20
"""Connections that a process opens to PostgreSQL at most, beside the one that hears of commits."""

IDLE = 1.0
"""Seconds after which a connection that nobody used is tried before it is: who uses them all the time finds out."""

_SINCE = "foedus_idle_since"

ALL = "all"
"""The lock that a transaction without a scope has for itself, and all others share."""

_SETTINGS = (
    f"-c lock_timeout={PATIENCE:.0f}s -c statement_timeout=60s -c timezone=UTC "
    "-c default_transaction_isolation=read\\ committed"
)
_KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 15_000}
_ALONE = text("SELECT set_config('idle_in_transaction_session_timeout', :stalled, true), pg_advisory_xact_lock(:all)")
_SCOPED = text(
    "SELECT set_config('idle_in_transaction_session_timeout', :stalled, true),"
    " pg_advisory_xact_lock_shared(:all), pg_advisory_xact_lock(:scope)"
)


def make_engine(url: str, connections: int = CONNECTIONS) -> Engine:
    """The engine of a database, by its URL: ``sqlite:///PATH`` or ``postgresql+psycopg://USER@HOST/NAME``.

    Raises:
        ConfigError: ``database_url``, ``extra_missing``.
    """
    try:
        found = make_url(url)
    except ArgumentError:
        raise _refused() from None
    if found.drivername == "postgresql":
        found = found.set(drivername="postgresql+psycopg")
    if found.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(url)
    if found.drivername != "postgresql+psycopg":
        raise _refused()
    options = f"{_SETTINGS} {found.query.get('options', '')}".strip()  # the URL's come last, and win
    settings = {"connect_timeout": 5, "application_name": "foedus", **_KEEPALIVE, "options": options}
    try:
        engine = create_engine(
            found.set(query={key: value for key, value in found.query.items() if key != "options"}),
            connect_args={
                name: value for name, value in settings.items() if name not in found.query or name == "options"
            },
            pool_size=connections,
            max_overflow=0,
            pool_timeout=PATIENCE,
            pool_use_lifo=True,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            "extra_missing", "PostgreSQL needs an extra.", str(error), "pip install 'foedus[postgres]'"
        ) from error
    _try_the_idle(engine)
    return engine


def is_postgres(engine: Engine | Connection) -> bool:
    """Whether this is PostgreSQL, which other processes write to at the same time."""
    return engine.dialect.name == "postgresql"


def begin_writing(connection: Connection, scope: str | None) -> None:
    """Take the locks of a transaction that writes; nothing was read in it before."""
    if is_postgres(connection):
        values = {"stalled": f"{STALLED:.0f}s", "all": _key(ALL)}
        if scope is None:
            connection.execute(_ALONE, values)
        else:
            connection.execute(_SCOPED, {**values, "scope": _key(f"scope {scope}")})


def hold(connection: Connection, name: str) -> None:
    """Be the only one with this name until the transaction ends: for rows that several scopes write, such as a chain.

    Who holds several takes them in the order of their names, or two might wait for each other.
    """
    if is_postgres(connection):
        connection.execute(select(func.pg_advisory_xact_lock(_key(f"hold {name}"))))


def database_time(connection: Connection) -> float:
    """Seconds since the epoch by the database's clock, which replicas share."""
    if is_postgres(connection):
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()


def single(engine: Engine) -> Engine:
    """The engine for statements of which each is a transaction by itself: one round trip."""
    return engine.execution_options(**({"isolation_level": "AUTOCOMMIT"} if is_postgres(engine) else {"begin": ""}))


def _try_the_idle(engine: Engine) -> None:
    """Replace connections that broke while nobody used them."""

    @event.listens_for(engine, "checkin")
    def _given_back(_: object, record: ConnectionPoolEntry) -> None:
        record.info[_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _taken(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        since = record.info.get(_SINCE)
        if since is None or time.monotonic() - since < IDLE:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error


def _sqlite(url: str) -> Engine:
    # Threads bound the connections; a pool that ran out would let them wait on each other.
    patient = {"timeout": PATIENCE, "check_same_thread": False}
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
        if begin := connection.get_execution_options().get("begin", "BEGIN"):
            connection.exec_driver_sql(begin)

    return engine


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"foedus {name}".encode()).digest()[:8], "big", signed=True)


def _refused() -> ConfigError:
    return ConfigError(
        "database_url",
        "That is no URL of a database that foedus can use.",
        "It may hold a password, and is not shown.",
        "Write it like postgresql+psycopg://USER:PASSWORD@HOST/NAME, or leave it out for the embedded SQLite.",
    )
