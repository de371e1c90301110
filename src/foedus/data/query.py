"""An SQL query of an owner's: a TOML file with a database's URL and a query, read into a CSV file. Free of torch.

The URL stays in its file: no message has it, and only the process that reads the query sees it.
"""

from __future__ import annotations

import csv
import math
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import URL, Connection, CursorResult, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from foedus.domain.errors import DataError
from foedus.domain.table import PositiveInt, Table, read_toml, validate

CHUNK = 1000
"""Rows between two looks at size and time."""

STEPS = 100_000
"""Steps of SQLite's machine between two looks at the time."""


class QueryTable(Table):
    """``url`` as SQLAlchemy reads it, and one ``query``, which may only read.

    What it may give at most, ``rows`` and ``bytes``; and how many ``seconds`` it may take, which other databases than
    SQLite and PostgreSQL are not told: there they count as rows come.
    """

    url: Annotated[str, Field(min_length=1)]
    query: Annotated[str, Field(min_length=1, max_length=65536)]
    rows: PositiveInt = 1_000_000
    bytes: PositiveInt = 1 << 30
    seconds: PositiveInt = 300


def snapshot(path: Path, into: Path, moved: Callable[[], None] = lambda: None) -> None:
    """Write what the query in the file ``path`` gives as CSV; ``moved`` is called as rows come.

    Raises:
        ConfigError: ``config_missing``, ``config_malformed``, ``config_refused``.
        DataError: ``query_exposed``, ``extra_missing``, ``dataset_unreadable``,
            ``dataset_too_large``, ``dataset_not_numeric``. Neither the URL nor a value is in them.
    """
    asked = validate(QueryTable, read_toml(path), "The query's file")
    url = _url(path, asked)
    part = into.with_name(f"{into.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file, _reading(url, asked.seconds) as connection:
            found = connection.execute(text(asked.query))
            writer = csv.writer(file)
            writer.writerow(found.keys())
            for rows in _chunks(found, asked):
                writer.writerows([_cell(value) for value in row] for row in rows)
                if file.tell() > asked.bytes:
                    raise _too_large(f"{asked.bytes:,} bytes")
                moved()
        part.replace(into)
    finally:
        part.unlink(missing_ok=True)


def _url(path: Path, asked: QueryTable) -> URL:
    try:
        url = make_url(asked.url)
    except ArgumentError:
        raise _failed("Its `url` is not one of SQLAlchemy's.") from None
    if url.password and stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise DataError(
            "query_exposed",
            f"The file {path.name} has a password in it, and others on this machine may read it.",
            "Whoever reads it can read the database.",
            f"chmod 600 {path.name}",
        )
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise _failed("There is no such file.")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


@contextmanager
def _reading(url: URL, seconds: int) -> Iterator[Connection]:
    """A connection that may only read, for so long."""
    end = time.monotonic() + seconds
    try:
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            if url.get_backend_name() == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
                held: Any = connection.connection.driver_connection
                held.set_progress_handler(lambda: time.monotonic() > end, STEPS)
            if url.get_backend_name() == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {seconds * 1000}")
            yield connection.execution_options(stream_results=True, max_row_buffer=CHUNK)
            connection.rollback()
    except ModuleNotFoundError:
        raise DataError(
            "extra_missing",
            "The driver of the query's database is not installed.",
            "foedus brings SQLite's; PostgreSQL's comes with the extra `postgres`.",
            "Install the driver that SQLAlchemy names for this database.",
        ) from None
    except SQLAlchemyError as error:  # its text may hold the server's name and values
        raise _failed(f"{type(error).__name__}.") from None


def _chunks(found: CursorResult[Any], asked: QueryTable) -> Iterator[list[Any]]:
    end, count = time.monotonic() + asked.seconds, 0
    while rows := list(found.fetchmany(CHUNK)):
        count += len(rows)
        if count > asked.rows:
            raise _too_large(f"{asked.rows:,} rows")
        if time.monotonic() > end:
            raise _failed(f"It took longer than {asked.seconds} seconds.")
        yield rows


def _cell(value: object) -> str | int | float:
    """A value as a cell of CSV; empty where there is none."""
    match value:
        case None:
            return ""
        case bool():
            return int(value)
        case float():
            return "" if math.isnan(value) else value
        case int() | str():
            return value
        case Decimal():
            return str(value)
        case date():
            return value.isoformat()
    raise DataError(
        "dataset_not_numeric",
        f"The query gives values of the type {type(value).__name__}.",
        "",
        "Have it give numbers, texts and dates alone.",
    )


def _too_large(what: str) -> DataError:
    return DataError(
        "dataset_too_large",
        f"The query gives more than {what}.",
        "Its file bounds it.",
        "Have it give less, or raise `rows` and `bytes` there.",
    )


def _failed(why: str) -> DataError:
    return DataError(
        "dataset_unreadable",
        "The query cannot be read from its database.",
        why,
        "Try its `url` and `query` with a client of the database's own.",
    )
