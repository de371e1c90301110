"""What processes that share a PostgreSQL tell each other: names, sent within a transaction, heard after its commit.

LISTEN and NOTIFY (https://www.postgresql.org/docs/current/sql-notify.html). A notice carries no fact: who hears it
looks into the database. After a connection that broke, everybody looks once, for what was told meanwhile is not told
again.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Collection, Iterator

from sqlalchemy import Connection, Engine, func, select

MISSED = "*"
"""A notice that stands for all that may have been missed."""

CHANNEL = "foedus"
PAYLOAD = 7000
"""Bytes of names in one notification; PostgreSQL takes less than 8,000."""

LOOK, AGAIN = 0.5, 1.0
"""Seconds between looks whether to end, and before a connection that broke is made anew."""

log = logging.getLogger("foedus.store")


class Notices:
    """The channel; ``engine`` is this one's own, with a single connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._me = secrets.token_hex(8)
        self._listeners: list[Callable[[Collection[str]], None]] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._hear, name="notices", daemon=True)

    def tell(self, connection: Connection, names: Collection[str]) -> None:
        """Tell the other processes once this transaction is committed."""
        for payload in _payloads(names):
            connection.execute(select(func.pg_notify(CHANNEL, f"{self._me}\n{payload}")))

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call ``listener(names)`` for what other processes tell, in a thread."""
        self._listeners.append(listener)
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Hear no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._engine.dispose()

    def _hear(self) -> None:
        while not self._closed.is_set():
            try:
                self._hear_until_it_breaks()
            except Exception as error:  # psycopg's own errors, while it waits; it may be an extra that is not here
                log.warning("notices of other replicas are not heard: %s", type(error).__name__)
                self._engine.dispose()
                self._closed.wait(AGAIN)

    def _hear_until_it_breaks(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(f"LISTEN {CHANNEL}")
            self._pass_on({MISSED})
            try:
                while not self._closed.is_set():
                    for heard in driver.notifies(timeout=LOOK):
                        sender, *names = heard.payload.split("\n")
                        if sender != self._me:
                            self._pass_on(set(names))
            finally:
                connection.invalidate()

    def _pass_on(self, names: Collection[str]) -> None:
        for listener in self._listeners:
            listener(names)


def _payloads(names: Collection[str]) -> Iterator[str]:
    """Names in lines, in pieces that fit; each at most 200 bytes long.

    >>> [len(piece) for piece in _payloads([f"node {n:03}" for n in range(900)])]
    [6992, 1106]
    """
    lines: list[str] = []
    size = 0
    for name in sorted(names):
        if size + len(name.encode()) + 1 > PAYLOAD:
            yield "\n".join(lines)
            lines, size = [], 0
        lines.append(name)
        size += len(name.encode()) + 1
    if lines:
        yield "\n".join(lines)
