"""A trace of devices: a CSV file with a row per client, for the virtual clock.

Its header names ``client`` and any of :data:`COLUMNS`; an empty cell leaves the value to the table [time].

| column | unit | may be |
|---|---|---|
| client | | the client's name |
| speed | examples per second | > 0 |
| down, up | bytes per second | > 0 |
| latency | seconds | ≥ 0 |
| availability, dropout, failure | chance | 0 to 1 |
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from foedus.domain.errors import DataError
from foedus.domain.table import nearest

COLUMNS = ("speed", "down", "up", "latency", "availability", "dropout", "failure")
RATES = ("speed", "down", "up")
CHANCES = ("availability", "dropout", "failure")

LIMIT = 256 << 20
"""Bytes of a trace."""

HIGHEST = 1e15

Trace = Mapping[str, tuple[float | None, ...]]


def read_trace(path: Path, population: Sequence[str]) -> Trace:
    """The devices of a trace: per client the values of :data:`COLUMNS`, none where a cell is empty.

    Raises:
        DataError: ``trace_unreadable``, ``trace_refused``.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise _refused(path, f"It has {path.stat().st_size} bytes, and {LIMIT} are allowed.")
        with path.open(newline="", encoding="utf-8-sig") as file:
            trace = dict(_rows(path, csv.reader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = (error.strerror or "") if isinstance(error, OSError) else "It is not a table in UTF-8."
        raise DataError(
            "trace_unreadable", f"The trace {path.name} cannot be read.", why, "Set `time.trace` to a CSV file."
        ) from error
    missing = next((name for name in population if name not in trace), None)
    if missing is not None:
        raise _refused(path, f"It has no row for the client {missing}.")
    return trace


def _rows(path: Path, rows: Iterator[list[str]]) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    header = [name.strip() for name in next(rows, [])]
    for name in header:
        if name not in ("client", *COLUMNS):
            known = ", ".join(("client", *COLUMNS))
            raise _refused(path, f"It has a column `{name[:40]}`; the columns are: {known}.{nearest(name, COLUMNS)}")
    if "client" not in header or len(set(header)) < len(header):
        raise _refused(path, "Its first row has to name the column `client`, and no column twice.")
    seen = set[str]()
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise _refused(path, f"Row {number} has {len(row)} cells where the header has {len(header)}.")
        cells = dict(zip(header, row, strict=True))
        client = cells["client"].strip()
        if client in seen:
            raise _refused(path, f"Row {number} is the second one of the client {client[:40]}.")
        seen.add(client)
        yield client, tuple(_value(path, number, column, cells.get(column, "").strip()) for column in COLUMNS)


def _value(path: Path, number: int, column: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    low, high = (0.0, 1.0) if column in CHANCES else (0.0, HIGHEST)
    if low <= value <= high and (value > 0 or column not in RATES):
        return value
    allowed = "a number over 0" if column in RATES else "0 to 1" if column in CHANCES else "a number from 0"
    raise _refused(path, f"Row {number} has {cell[:40]!r} for {column}, which has to be {allowed}.")


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        "trace_refused", f"The trace {path.name} is refused.", why, "Correct that in the file and try again."
    )
