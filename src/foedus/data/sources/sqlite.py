"""A table in an SQLite file, read client by client through an index."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foedus.data.dataset import Columns
from foedus.data.files import check_column
from foedus.data.population import Federation, OnDemand
from foedus.data.sources.source import Request, Source, client_names, reading, required_file, unreadable
from foedus.domain.errors import DataError
from foedus.domain.table import Table, Text

CLIENTS = 10_000_000
ROWS = 10_000_000
"""Clients of a table, and rows of one client, that are read at most."""

KINDS = {"INT": torch.int64, "BLOB": torch.uint8, "REAL": torch.float32, "FLOA": torch.float32, "DOUB": torch.float32}
"""What a column's declared type contains → the type of its tensor."""


class SqliteOptions(Table):
    """``table``: the name of the table."""

    table: Text


@dataclass
class Database:
    """A read-only file; each process has a connection of its own, for SQLite's must not cross a fork."""

    path: Path
    connections: dict[int, sqlite3.Connection] = field(default_factory=dict)

    def rows(self, query: str, *values: object) -> list[Any]:
        """All rows of a query."""
        connection = self.connections.get(os.getpid())
        if connection is None:
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            connection = self.connections[os.getpid()] = sqlite3.connect(uri, uri=True, check_same_thread=False)
        with reading(self.path, sqlite3.Error):
            return connection.execute(query, values).fetchall()


def read(request: Request) -> Federation:
    """The clients that the column ``[data] client`` of a table names; its other columns are numbers or blobs.

    INTEGER becomes int64, REAL float32, and BLOBs of one length uint8 ``[n, bytes]``.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_not_indexed``, ``dataset_not_numeric``,
            ``dataset_too_large``, ``column_missing``, ``client_column_missing``.
    """
    path = required_file(request, "It is an SQLite database.")
    if request.client is None:
        raise DataError(
            "client_column_missing",
            "`sqlite` needs `[data] client`.",
            "It reads client by client.",
            "Name the column that names the client.",
        )
    database, table = Database(path), _quoted(request.options.table)
    declared = {row[1]: str(row[2]).upper() for row in database.rows(f"PRAGMA table_info({table})")}
    if not declared:
        raise unreadable(path, f"It has no table `{request.options.table}`.", "Name one of its tables.")
    check_column(declared, request.client, path.name)
    kinds = {name: _kind(path, name, kind) for name, kind in declared.items() if name != request.client}
    _check_index(database, request.options.table, request.client)
    key = _quoted(request.client)
    found = database.rows(f"SELECT DISTINCT {key} FROM {table} LIMIT ?", CLIENTS + 1)
    keys = [row[0] for row in found if row[0] is not None]
    _check_count(len(found), CLIENTS, "clients")
    names, places = client_names([str(value) for value in keys])
    wanted = ", ".join(map(_quoted, kinds))
    query = f"SELECT {wanted} FROM {table} WHERE {key} = ? ORDER BY rowid LIMIT {ROWS + 1}"

    def client(place: int) -> Columns:
        rows = database.rows(query, keys[places[place]])
        _check_count(len(rows), ROWS, "rows of one client")
        cells = zip(*rows, strict=True) if rows else [()] * len(kinds)
        return {name: _tensor(path, name, kinds[name], column) for name, column in zip(kinds, cells, strict=True)}

    return Federation(OnDemand(names, client))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _kind(path: Path, name: str, declared: str) -> torch.dtype:
    for part, kind in KINDS.items():
        if part in declared:
            return kind
    raise _not_numeric(path, f"The column `{name}` is declared as {declared or 'nothing'}.")


def _check_index(database: Database, table: str, client: str) -> None:
    indexes = database.rows(f"PRAGMA index_list({_quoted(table)})")
    firsts = [database.rows(f"PRAGMA index_info({_quoted(index[1])})")[0][2] for index in indexes]
    if client not in firsts:
        raise DataError(
            "dataset_not_indexed",
            f"The table `{table}` has no index that begins with `{client}`.",
            "Without one, reading one client would read the whole table.",
            f"CREATE INDEX by_client ON {_quoted(table)} ({_quoted(client)});",
        )


def _check_count(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise DataError("dataset_too_large", f"The table has more than {limit:,} {what}.", "", "Divide it.")


def _tensor(path: Path, name: str, kind: torch.dtype, cells: Sequence[Any]) -> Tensor:
    try:
        if kind == torch.uint8:
            return torch.from_numpy(np.array([np.frombuffer(cell, np.uint8) for cell in cells]))
        filled = [float("nan") if cell is None else cell for cell in cells] if kind.is_floating_point else list(cells)
        return torch.tensor(filled, dtype=kind)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _not_numeric(
            path, f"The column `{name}` has cells that are not of its type, or of one length."
        ) from error


def _not_numeric(path: Path, why: str) -> DataError:
    fix = "Declare columns as INTEGER, REAL or BLOB, and leave other columns out."
    return DataError("dataset_not_numeric", f"The file {path.name} is not a table of numbers.", why, fix)


SOURCE = Source(read, SqliteOptions)
