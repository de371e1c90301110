"""A dataset in a file of its owner: NPZ, CSV or safetensors. Nothing in it is unpickled."""

from __future__ import annotations

import csv
import lzma
import tokenize
import zipfile
import zlib
from array import array
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from foedus.data.dataset import Columns
from foedus.domain.codec import TensorFile
from foedus.domain.errors import DataError, IntegrityError
from foedus.domain.table import nearest
from foedus.domain.tree import names_of_dtypes

# What the readers of zip, NPY, CSV and text raise on bytes that are not theirs; RuntimeError is a password's.
NOT_A_DATASET = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, SyntaxError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError, csv.Error, IntegrityError),
)

SHOWN = 40
"""Columns that a refusal names at most."""


def read_columns(path: Path) -> Columns:
    """The named columns in a file, with the dtypes they were written with.

    A CSV file has a header; its columns are float32, empty cells NaN, and empty lines nothing.

    Raises:
        DataError: ``dataset_unreadable``, ``dataset_not_numeric``.
    """
    readers = {".npz": _read_npz, ".csv": _read_csv, ".safetensors": _read_safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise _unreadable(path, f"Its ending is not one of: {', '.join(sorted(readers))}.")
    try:
        columns = reader(path)
    except NOT_A_DATASET as error:
        why = "There is no such file." if isinstance(error, FileNotFoundError) else f"{type(error).__name__}."
        raise _unreadable(path, why) from error
    for name, column in columns.items():
        if column.dtype not in names_of_dtypes:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in names_of_dtypes)
            raise _unreadable(path, f"The column `{name}` is not of a type that is known: {allowed}.")
    return columns


def read_keyed(path: Path, key: str, wanted: Collection[str] = ()) -> tuple[Columns, list[str]]:
    """As :func:`read_columns`, with the column ``key`` apart, as text, row by row; of the others only those ``wanted``.

    Raises:
        DataError: ``column_missing``, and as :func:`read_columns`.
    """
    if path.suffix.lower() == ".csv":
        try:
            keys: list[str] = []
            columns = _read_csv(path, key, keys, wanted)
        except NOT_A_DATASET as error:
            raise _unreadable(path, f"{type(error).__name__}.") from error
        return columns, keys
    columns = read_columns(path)
    check_column(columns, key, path.name)
    taken = {name: column for name, column in columns.items() if name != key and (not wanted or name in wanted)}
    return taken, list(map(str, columns[key].tolist()))


def check_column(columns: Collection[str], name: str, where: str) -> None:
    """Refuse a table without a column that the run names.

    Raises:
        DataError: ``column_missing``.
    """
    if name not in columns:
        raise DataError(
            "column_missing",
            f"{where} has no column `{name}`.{nearest(name, columns)}",
            f"Its columns are: {', '.join(sorted(columns)[:SHOWN])}.",
            "Name one of them.",
        )


def write_columns(path: Path, columns: Columns) -> None:
    """Write columns as NPZ, dtypes kept; any column name is allowed (``numpy.savez`` reserves some)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, column.numpy(), allow_pickle=False)


def _read_npz(path: Path) -> Columns:
    # NumPy leaves a file of its own open where the archive is broken.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def _read_safetensors(path: Path) -> Columns:
    with TensorFile(path) as file:
        return dict(file)


def _read_csv(
    path: Path, key: str | None = None, keys: list[str] | None = None, wanted: Collection[str] = ()
) -> Columns:
    """The columns (those ``wanted``, or all); the cells of ``key`` are put into ``keys`` as they stand."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        names = next(rows, [])
        _check_header(path, names)
        if key is not None:
            check_column(names, key, path.name)
        columns = {name: array("d") for name in names if name != key and (not wanted or name in wanted)}
        for number, row in enumerate(rows, start=2):
            if row and len(row) != len(names):
                raise _not_numeric(path, f"row {number} has {len(row)} cells where the header has {len(names)}")
            for name, cell in zip(names, row, strict=False):
                if name in columns:
                    columns[name].append(_number(path, cell, name, number))
                elif name == key and keys is not None:
                    keys.append(cell.strip())
    return {name: torch.from_numpy(np.asarray(values)).float() for name, values in columns.items()}


def _check_header(path: Path, names: Sequence[str]) -> None:
    """Refuse a first row of data: one example would be lost, and its values would be shown as names of columns."""
    if any(_is_number(name) and not name.strip().isdigit() for name in names):
        raise _unreadable(path, "Its first row holds numbers where the names of the columns belong.")
    if len(set(names)) < len(names):
        raise _unreadable(path, "Two of its columns have the same name.")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(path: Path, cell: str, name: str, row: int) -> float:
    try:
        return float(cell) if cell.strip() else float("nan")
    except ValueError:
        raise _not_numeric(path, f"the column `{name}` has a cell in row {row} that is not a number") from None


def _not_numeric(path: Path, why: str) -> DataError:
    return DataError(
        "dataset_not_numeric",
        f"The file {path.name} is not a table of numbers.",
        f"{why[:1].upper()}{why[1:]}.",
        "Separate cells by commas, give every row as many as the header, and encode text as numbers.",
    )


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "dataset_unreadable",
        f"The file {path.name} cannot be read as a dataset.",
        why,
        "Save it as .npz, .csv or .safetensors.",
    )
