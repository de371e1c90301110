"""Parquet and Arrow files, whole or client by client (extra ``parquet``).

With a column of clients only that column is read at first; a client's rows are read when they are asked for, from the
row groups that hold them, so a file sorted by client may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import torch
from torch import Tensor

from foedus.data.dataset import Columns
from foedus.data.files import check_column
from foedus.data.population import Division, Federation, OnDemand
from foedus.data.sources.source import (
    Pool,
    Request,
    Source,
    by_code,
    check_size,
    reading,
    required_file,
    unreadable,
)
from foedus.data.sources.tables import FileOptions, test_file
from foedus.domain.errors import DataError

NOT_A_TABLE = (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException)

BATCH = 10_000
"""Rows that become text at once."""

types = pyarrow.types


def read(request: Request) -> Pool | Federation:
    """The columns of ``[data] file``: one pool, or the clients that the column ``[data] client`` names.

    Numbers keep their type; lists of one length become further dimensions.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_too_large``, ``dataset_not_numeric``,
            ``column_missing``.
    """
    path = required_file(request, f"It is a file of the format {request.name}.")
    test = _whole(request, test_file(request, path)) if request.test else None
    if request.client is None:
        return Pool(_whole(request, path), test)
    with reading(path, *NOT_A_TABLE):
        file = _open(request, path)
        check_column(file.names, request.client, path.name)
        names, division = clients_in(path, file.column(request.client))
    wanted = [name for name in file.names if name != request.client]

    def client(place: int) -> Columns:
        with reading(path, *NOT_A_TABLE):
            return columns_of(file.rows(division.at(place).numpy(), wanted), path)

    return Federation(OnDemand(names, client), test)


def columns_of(table: pyarrow.Table, path: Path) -> Columns:
    """A table's columns as tensors.

    Raises:
        DataError: ``dataset_not_numeric``.
    """
    return {name: _tensor(table.column(name).combine_chunks(), name, path) for name in table.column_names}


def _whole(request: Request, path: Path) -> Columns:
    with reading(path, *NOT_A_TABLE):
        file = _open(request, path)
        check_size(file.size, f"The file {path.name}, unpacked,")
        wanted = [name for name in file.names if name != request.client]
        return columns_of(file.table(wanted), path)


def text_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a file as cells of text, empty where there is no value; the names of the columns come first.

    Raises:
        DataError: ``dataset_unreadable``, ``dataset_too_large``.
    """
    with reading(path, *NOT_A_TABLE):
        file = FORMATS[path.suffix.lower().removeprefix(".")](path)
        check_size(file.size, f"The file {path.name}, unpacked,")
        yield file.names
        for batch in file.table(file.names).to_batches(max_chunksize=BATCH):
            cells = [column.to_pylist() for column in batch.columns]
            yield from (["" if cell is None else str(cell) for cell in row] for row in zip(*cells, strict=True))


def clients_in(path: Path, column: pyarrow.ChunkedArray) -> tuple[Sequence[str], Division]:
    """The clients that a column names, and the rows of each.

    Raises:
        DataError: ``dataset_unreadable`` where it has missing values.
    """
    if column.null_count:
        raise unreadable(path, "The column that names the client has missing values.", "Name a client in every row.")
    encoded = column.cast(pyarrow.string()).combine_chunks().dictionary_encode()
    return by_code(encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist())


class _Parquet:
    """A Parquet file; the row group that was read last is kept. Memory-mapped, so that forked workers may share it."""

    def __init__(self, path: Path) -> None:
        self._file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        self.names: list[str] = self._file.schema_arrow.names
        groups = [self._file.metadata.row_group(at) for at in range(self._file.metadata.num_row_groups)]
        self.size = sum(group.total_byte_size for group in groups)
        self._starts = np.r_[0, np.cumsum([group.num_rows for group in groups], dtype=np.int64)]
        # A damaged or hostile file must not have one client's row group fill the memory.
        check_size(
            max((group.total_byte_size for group in groups), default=0), f"A row group of {path.name}, unpacked,"
        )
        self._kept: tuple[int, pyarrow.Table] | None = None

    def column(self, name: str) -> pyarrow.ChunkedArray:
        return self.table([name]).column(0)

    def table(self, names: list[str]) -> pyarrow.Table:
        return self._file.read(columns=names, use_threads=False)

    def rows(self, index: Any, names: list[str]) -> pyarrow.Table:
        groups = np.searchsorted(self._starts, index, side="right") - 1
        parts = [
            self._group(at, names).take(index[groups == at] - self._starts[at]) for at in np.unique(groups).tolist()
        ]
        return pyarrow.concat_tables(parts)

    def _group(self, at: int, names: list[str]) -> pyarrow.Table:
        if self._kept is None or self._kept[0] != at:
            self._kept = (at, self._file.read_row_group(at, columns=names, use_threads=False))
        return self._kept[1]


class _Arrow:
    """An Arrow IPC file, mapped into memory: what is not touched is not read."""

    def __init__(self, path: Path) -> None:
        self._table = pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
        self.names: list[str] = self._table.column_names
        self.size = self._table.nbytes

    def column(self, name: str) -> pyarrow.ChunkedArray:
        return self._table.column(name)

    def table(self, names: list[str]) -> pyarrow.Table:
        return self._table.select(names)

    def rows(self, index: Any, names: list[str]) -> pyarrow.Table:
        return self._table.select(names).take(index)


FORMATS: dict[str, Callable[[Path], _Parquet | _Arrow]] = {"parquet": _Parquet, "arrow": _Arrow}


def _open(request: Request, path: Path) -> _Parquet | _Arrow:
    return FORMATS[request.name](path)


def _tensor(array: pyarrow.Array, name: str, path: Path) -> Tensor:
    kind = array.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        sizes = np.diff(array.offsets.to_numpy()) if not types.is_fixed_size_list(kind) else np.array([kind.list_size])
        if array.null_count or len(np.unique(sizes)) > 1:
            raise _not_numeric(path, name, "has lists of different lengths")
        inner = _tensor(array.flatten(), name, path)
        return inner.reshape(len(array), -1, *inner.shape[1:])
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise _not_numeric(path, name, f"holds {kind}")
    values = np.array(array.to_numpy(zero_copy_only=False))
    if values.dtype == object:
        raise _not_numeric(path, name, "has missing values")
    unsigned = values.dtype.kind == "u" and values.dtype != np.uint8
    return torch.from_numpy(values.astype(np.int64) if unsigned else values)


def _not_numeric(path: Path, name: str, what: str) -> DataError:
    return DataError(
        "dataset_not_numeric",
        f"The file {path.name} is not a table of numbers.",
        f"The column `{name}` {what}.",
        "Encode text as numbers, fill what is missing, give lists one length, or leave the column out.",
    )


SOURCE = Source(read, FileOptions, text_rows)
