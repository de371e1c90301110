"""What a source of data is: a function from what a run asks for to one pool of examples, or to clients of its own.

A source never unpickles, reads nothing that the run did not name, and bounds what it reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foedus.data.align import Alignment
from foedus.data.dataset import Columns
from foedus.data.loading_plan import ColumnTable
from foedus.data.population import Division, Federation, Numbered, OnDemand, take
from foedus.domain.errors import DataError
from foedus.domain.names import NAME
from foedus.domain.table import Table

WHOLE = 8 * 2**30
"""Bytes that are read into memory as one data set at most; more is read by client, from Parquet, Arrow or SQLite."""

UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]+")


class NoOptions(Table):
    """No options."""


@dataclass(frozen=True)
class Request:
    """What a run asks of a source: the keys of its ``[data]`` table, with paths resolved and options validated.

    ``client`` and ``label`` name columns; ``test`` says whether the source's own test part is wanted. By ``alignment``
    tables that differ are read, where they do.
    """

    name: str
    folder: Path | None = None
    file: Path | None = None
    client: str | None = None
    label: str = "label"
    test: bool = False
    seed: int = 0
    options: Any = None
    alignment: Alignment | None = None


@dataclass(frozen=True)
class Pool:
    """Examples that a partition divides among clients, and the source's own test part where it was wanted."""

    columns: Columns
    test: Columns | None = None


@dataclass(frozen=True)
class Source:
    """The model of a source's options, and the function that reads.

    ``rows``, of tables that may hold text: a file's rows as cells of text, the names of the columns first. ``drafts``,
    of clients whose tables may differ: what is told of one's columns, or of all clients' by name.
    """

    read: Callable[[Request], Pool | Federation]
    options: type[Table] = NoOptions
    rows: Callable[[Path], Iterator[list[str]]] | None = None
    drafts: Callable[[Request, str | None], Mapping[str, Mapping[str, ColumnTable]]] | None = None


def required_folder(request: Request, files: str) -> Path:
    """The folder that a run must name; ``files`` says what belongs there.

    Raises:
        DataError: ``dataset_missing``.
    """
    if request.folder is None or not request.folder.is_dir():
        raise missing(request.name, f"the folder {request.folder}" if request.folder else "`[data] folder`", files)
    return request.folder


def required_file(request: Request, files: str) -> Path:
    """The file that a run must name; ``files`` says what it is.

    Raises:
        DataError: ``dataset_missing``.
    """
    if request.file is None or not request.file.is_file():
        raise missing(request.name, f"the file {request.file}" if request.file else "`[data] file`", files)
    return request.file


def missing(name: str, what: str, files: str) -> DataError:
    """The refusal of a run whose data are not there."""
    return DataError(
        "dataset_missing",
        f"The data of `{name}` are not there: {what} is missing.",
        f"They are not bundled. {files}",
        "Put the files there and name the place, or use `digits`, which is bundled.",
    )


def unreadable(path: Path, why: str, fix: str = "Fetch or write that file again.") -> DataError:
    """The refusal of a file that is not what it should be."""
    return DataError("dataset_unreadable", f"The file {path.name} cannot be read as a dataset.", why, fix)


def check_size(size: int, what: str, limit: int = WHOLE) -> None:
    """Refuse to read more than ``limit`` bytes at once.

    Raises:
        DataError: ``dataset_too_large``.
    """
    if size > limit:
        raise DataError(
            "dataset_too_large",
            f"{what} has {size:,} bytes.",
            f"At most {limit:,} are read into memory at once.",
            "Keep it as Parquet, Arrow or SQLite with a column that names the client: those are read client by client.",
        )


@contextmanager
def reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a reader raises on bytes that are not its own into a refusal."""
    try:
        yield
    except errors as error:
        raise unreadable(path, f"{type(error).__name__}.") from error


def grouped(columns: Columns, keys: Sequence[str]) -> OnDemand:
    """Clients of their own: those of ``columns`` ``[n, …]`` that have the same key, row by row."""
    values, codes = np.unique(np.asarray(keys, dtype=str), return_inverse=True)
    names, division = by_code(codes, values.tolist())
    return OnDemand(names, lambda place: take(columns, division.at(place)))


def by_code(codes: Any, keys: Sequence[str]) -> tuple[Sequence[str], Division]:
    """Names and rows of the clients ``keys``, of which row ``i`` belongs to the one at ``codes[i]``."""
    names, places = client_names(keys)
    rank = np.empty(len(keys), dtype=np.int64)
    rank[places] = np.arange(len(keys))
    owner = rank[codes]
    bounds = np.r_[0, np.bincount(owner, minlength=len(keys)).cumsum()]
    return names, Division(torch.from_numpy(np.argsort(owner, kind="stable")), torch.from_numpy(bounds))


def client_names(keys: Sequence[str]) -> tuple[Sequence[str], list[int]]:
    """Sorted names for clients known by ``keys``, and the place of each one's key in ``keys``.

    What a name may not have becomes a dash; where that leaves no name, or the same for two, clients are numbered in the
    order of their keys.

    >>> client_names(["va", "New York"])
    (('New-York', 'va'), [1, 0])
    """
    names = [UNNAMEABLE.sub("-", key).strip("-._") for key in keys]
    if len(set(names)) < len(names) or not all(NAME.fullmatch(name) for name in names):
        return Numbered(len(keys)), sorted(range(len(keys)), key=keys.__getitem__)
    places = sorted(range(len(keys)), key=names.__getitem__)
    return tuple(names[place] for place in places), places
