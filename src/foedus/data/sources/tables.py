"""Tables in files of a user's own that fit in memory: CSV, NPZ and safetensors, with or without a column of clients."""

from __future__ import annotations

import zipfile
from pathlib import Path

from foedus.data.dataset import Columns
from foedus.data.files import read_columns, read_keyed
from foedus.data.population import Federation
from foedus.data.sources.source import Pool, Request, Source, check_size, grouped, reading, required_file, unreadable
from foedus.domain.table import Table, Text

ENDINGS = {"csv": ".csv", "npz": ".npz", "safetensors": ".safetensors"}


class FileOptions(Table):
    """``test``: a file beside the first one that is the test part."""

    test: Text | None = None


def read(request: Request) -> Pool | Federation:
    """The columns of ``[data] file``: one pool, or the clients that the column ``[data] client`` names.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_too_large``, ``dataset_not_numeric``,
            ``column_missing``.
    """
    path = required_file(request, f"It is a file that ends in {ENDINGS[request.name]}.")
    test = _columns(request, test_file(request, path)) if request.test else None
    if request.client is None:
        return Pool(_columns(request, path), test)
    _check(request, path)
    return Federation(grouped(*read_keyed(path, request.client)), test)


def test_file(request: Request, path: Path) -> Path:
    """The file of the test part, beside ``path``.

    Raises:
        DataError: ``dataset_missing``.
    """
    named = request.options.test
    beside = request.file and named and path.parent / named
    return required_file(
        Request(request.name, file=beside or None), "`[data] options.test` names the test part's file."
    )


def _columns(request: Request, path: Path) -> Columns:
    _check(request, path)
    return read_columns(path) if request.client is None else read_keyed(path, request.client)[0]


def _check(request: Request, path: Path) -> None:
    if path.suffix.lower() != ENDINGS[request.name]:
        raise unreadable(
            path, f"`{request.name}` reads files that end in {ENDINGS[request.name]}.", "Name such a file."
        )
    check_size(path.stat().st_size, f"The file {path.name}")
    if request.name == "npz":
        with reading(path, OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            check_size(sum(member.file_size for member in archive.infolist()), f"The file {path.name}, unpacked,")


SOURCE = Source(read, FileOptions)
