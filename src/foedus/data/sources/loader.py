"""A loader class of the owner's own: ``loader.py`` in the folder of the data that it reads.

It is the owner's code, written and put there by the owner. None is ever received from anybody. On a node it runs where
plans run: in the sandbox, which shows it that folder alone.
"""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from foedus.data.dataset import Columns
from foedus.data.owned import LOADER
from foedus.data.sources.source import Pool, Request, Source, required_folder
from foedus.domain.errors import DataError
from foedus.domain.tree import names_of_dtypes

CLASS = "Loader"
LIMIT = 1 << 20
"""Bytes of the largest ``loader.py``."""


def read(request: Request) -> Pool:
    """What ``Loader(folder).columns()`` gives: by name tensors, or arrays of NumPy's, each ``[n, …]``.

    Raises:
        DataError: ``dataset_missing``, ``loader_failed``, ``loader_refused``.
    """
    folder = required_folder(request, f"It is a folder with a file {LOADER}, which defines a class `{CLASS}`.")
    try:
        loader = _names(folder / LOADER).get(CLASS)
        found = loader(folder).columns() if callable(loader) else None
    except Exception as error:
        raise DataError(
            "loader_failed",
            f"The loader in {LOADER} failed.",
            f"{type(error).__name__}{_line_of(error)}.",
            f"Mend it; `{CLASS}(folder).columns()` gives a dict of tensors or arrays.",
        ) from error
    return Pool(_columns(found))


def _names(path: Path) -> dict[str, object]:
    """What the file defines; it is compiled from memory, so that nothing is written beside it."""
    with path.open("rb") as file:
        source = file.read(LIMIT).decode("utf-8")
    shown = f"<{LOADER}>"
    linecache.cache[shown] = (len(source), None, source.splitlines(keepends=True), shown)
    names: dict[str, object] = {"__name__": "foedus_loader", "__file__": str(path)}
    exec(compile(source, shown, "exec"), names)
    return names


def _line_of(error: BaseException) -> str:
    line, trace = 0, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == f"<{LOADER}>" else line
        trace = trace.tb_next
    return f", line {line}" if line else ""


def _columns(found: object) -> Columns:
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise _refused("It gave no dict of columns by name.")
    columns = {name: _tensor(name, column) for name, column in found.items()}
    return dict(sorted(columns.items()))


def _tensor(name: str, column: object) -> torch.Tensor:
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf" and column.dtype != np.longdouble:
        column = torch.from_numpy(np.ascontiguousarray(column))
    if isinstance(column, torch.Tensor) and column.dtype in names_of_dtypes and column.ndim:
        return column.detach().cpu().contiguous()
    raise _refused(f"Its column `{name}` is no tensor of numbers with a row per example.")


def _refused(why: str) -> DataError:
    return DataError(
        "loader_refused",
        f"What the loader in {LOADER} gave cannot be used.",
        why,
        f"Have `{CLASS}(folder).columns()` give a dict of tensors or arrays, each with a row per example.",
    )


SOURCE = Source(read)
