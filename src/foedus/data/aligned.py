"""A site's own table as a run's alignment (:mod:`foedus.data.align`) has it read, be it of text or of numbers."""

from __future__ import annotations

import numpy as np
import torch

from foedus.data.align import Alignment
from foedus.data.dataset import Columns, count
from foedus.data.files import check_column
from foedus.data.loading import Rows, Values, load_rows, made
from foedus.data.loading_plan import ColumnTable
from foedus.domain.errors import ConfigError
from foedus.domain.names import PART

UNSPLIT = -1.0
"""Stands in the column of the owner's split where there is none."""


def draft_columns(columns: Columns) -> dict[str, ColumnTable]:
    """What may be told of columns of numbers, as :func:`foedus.data.align.draft_rows` of text.

    Raises:
        ConfigError: ``align_refused`` where one has more than one number for an example.
    """
    return {name: _described(name, column) for name, column in columns.items()}


def aligned_rows(alignment: Alignment, rows: Rows) -> Columns:
    """The columns of the alignment, of a table of text, the first row with its names; a split of the owner's stays.

    Raises:
        DataError: as :func:`foedus.data.loading.load`.
    """
    split = ColumnTable(classes={}, absent="missing", missing=UNSPLIT, type="int64")
    wanted = alignment.plan.model_copy(update={"columns": {PART: split, **alignment.plan.columns}})
    columns = dict(load_rows(wanted, rows))
    if bool((columns[PART] == UNSPLIT).all()):
        del columns[PART]
    return columns


def aligned_columns(alignment: Alignment, own: Columns) -> Columns:
    """The columns of the alignment, of columns of numbers; a split of the owner's stays beside them.

    Raises:
        ConfigError: ``align_refused``. DataError: ``column_missing``, ``values_missing``, ``dataset_not_numeric``.
    """
    there = made(alignment.plan, {name: _values(name, each, own) for name, each in alignment.plan.columns.items()})
    return {**there, PART: own[PART]} if PART in own else there


def _values(name: str, column: ColumnTable, own: Columns) -> Values:
    """A column of numbers as float64, ``[rows]``; one that may be absent, and is, is missing in each row."""
    there = column.source or name
    if there not in own and column.absent == "missing":
        return np.full(count(own), np.nan)
    check_column(own, there, "The dataset")
    _described(there, own[there])
    values = own[there].to(torch.float64).numpy()
    numbers = [*column.classes.values(), *([column.missing] if isinstance(column.missing, float) else [])]
    if column.classes and not (np.isnan(values) | np.isin(values, numbers)).all():
        raise ConfigError(
            "align_refused",
            "This dataset cannot be aligned.",
            f"Its column `{there}` is numbers here, and classes in the run, which has other numbers for them.",
            "Offer the table as text, or number its classes as the run does.",
        )
    return values


def _described(name: str, column: torch.Tensor) -> ColumnTable:
    if column.dim() != 1:
        raise ConfigError(
            "align_refused",
            "This dataset cannot be aligned.",
            f"Its column `{name}` has {column.dim()} dimensions; tables have one number in a cell.",
            "Leave `data.align` out, or offer a table.",
        )
    return ColumnTable(classes={}, type="float32" if column.is_floating_point() else "int64")
