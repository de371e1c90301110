"""Data sets that come with the package: digits, breast_cancer, wine and diabetes (see ``files/README.md``)."""

from __future__ import annotations

from importlib.resources import as_file, files

import torch

from foedus.data.dataset import Columns
from foedus.data.files import read_columns
from foedus.data.sources.source import Pool, Request, Source

LABEL = "label"


def read(request: Request) -> Pool:
    """``image`` ``[n, 64]`` or ``features`` ``[n, d]`` float32, and ``label`` (of diabetes a number)."""
    with as_file(files(__package__) / "files" / f"{request.name}.npz") as path:
        columns = read_columns(path)
    return Pool({name: _typed(name, columns) for name in columns})


def _typed(name: str, columns: Columns) -> torch.Tensor:
    column = columns[name]
    return column.long() if name == LABEL and not column.is_floating_point() else column.float()


SOURCE = Source(read)
