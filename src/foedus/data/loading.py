"""What loading plans (:mod:`foedus.data.loading_plan`) say is done: a site's own file becomes columns of tensors."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from foedus.data.dataset import TRAINED_ON, Columns
from foedus.data.files import check_column
from foedus.data.loading_plan import ColumnTable, LoadingPlan, Statistics
from foedus.domain.errors import DataError
from foedus.domain.names import PART

Values = NDArray[np.float64]
Rows = Iterator[list[str]]


def load(plan: LoadingPlan, path: Path) -> Columns:
    """The columns that the plan makes of a CSV file; rows that it drops are missing in all of them.

    Raises:
        DataError: ``dataset_unreadable``, ``dataset_not_numeric``, ``column_missing``, ``values_missing``,
            ``class_unknown``, ``loading_refused``. No value and no path is in them.
    """
    with csv_rows(path, plan.file.delimiter) as rows:
        return load_rows(plan, rows)


@contextmanager
def csv_rows(path: Path, delimiter: str = ",") -> Iterator[Rows]:
    """The rows of a CSV file as cells of text, while it is open.

    Raises:
        DataError: ``dataset_unreadable``, also while they are read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield csv.reader(file, delimiter=delimiter)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError("dataset_unreadable", "The dataset's file cannot be read.", type(error).__name__) from error


def load_rows(plan: LoadingPlan, rows: Rows) -> Columns:
    """As :func:`load`, of rows of text; the first has the columns' names, unless the plan says otherwise."""
    return made(plan, _numbers(plan, rows))


def made(plan: LoadingPlan, read: Mapping[str, Values]) -> Columns:
    """The plan's columns of what was read: a float64 array per column, ``[rows]``, NaN where a value is missing.

    Raises:
        DataError: ``loading_refused`` where the plan is of folders; ``values_missing``, ``dataset_not_numeric``.
    """
    if not plan.columns:
        raise DataError("loading_refused", "This loading plan reads no table.", "It names folders.", "Name `columns`.")
    converted = {name: _converted(column, read[name]) for name, column in plan.columns.items()}
    rows = len(next(iter(converted.values())))
    kept = np.ones(rows, dtype=bool)
    for name, column in plan.columns.items():
        if column.missing == "drop":
            kept &= ~np.isnan(converted[name])
    there = {name: _filled(name, column, converted[name][kept]) for name, column in plan.columns.items()}
    trained = there[PART] == TRAINED_ON if PART in there else np.ones(int(kept.sum()), dtype=bool)
    return {name: _finished(name, column, there[name], trained) for name, column in plan.columns.items()}


def _numbers(plan: LoadingPlan, rows: Rows) -> dict[str, Values]:
    """The cells of the columns that the plan wants, as numbers; read row by row."""
    names = next(rows, []) if plan.file.header else list(plan.file.names)
    places: list[tuple[str, ColumnTable, int | None]] | None = None
    found = {name: array("d") for name in plan.columns}
    missing = {text.casefold() for text in plan.file.missing}
    for number, row in enumerate(rows, start=2 if plan.file.header else 1):
        if not row:
            continue
        if places is None:
            places = _places(plan, names or [str(at) for at in range(1, len(row) + 1)])
        for name, column, at in places:
            cell = row[at].strip() if at is not None and at < len(row) else ""
            gone = at is None or cell.casefold() in missing
            found[name].append(math.nan if gone else _number(column, cell, name, number))
    return {name: np.frombuffer(values, dtype=np.float64) for name, values in found.items()}


def _places(plan: LoadingPlan, names: Sequence[str]) -> list[tuple[str, ColumnTable, int | None]]:
    """Each column with its place in a row; none where the file lacks it and may."""
    at = {name.strip(): place for place, name in reversed(list(enumerate(names)))}
    for name, column in plan.columns.items():
        if column.absent == "refuse":
            check_column(at, column.source or name, "The dataset")
    return [(name, column, at.get(column.source or name)) for name, column in plan.columns.items()]


def _number(column: ColumnTable, cell: str, name: str, row: int) -> float:
    if column.classes:
        if cell not in column.classes:
            if column.unknown == "missing":
                return math.nan
            raise DataError(
                "class_unknown",
                f"The column `{name}` has a class in row {row} that the loading plan does not know.",
                f"It knows {len(column.classes)}.",
                "Add it to the column's `classes`, or to the file's `missing`.",
            )
        return column.classes[cell]
    try:
        return float(cell)
    except ValueError:
        raise DataError(
            "dataset_not_numeric",
            f"The column `{name}` has a cell in row {row} that is not a number.",
            "",
            "Give the column its `classes`, or add the cell to the file's `missing`.",
        ) from None


def _converted(column: ColumnTable, values: Values) -> Values:
    values = values * column.scale + column.offset
    low, high = (-math.inf if column.low is None else column.low), (math.inf if column.high is None else column.high)
    return np.where((values < low) | (values > high) | ~np.isfinite(values), math.nan, values)


def _filled(name: str, column: ColumnTable, values: Values) -> Values:
    gone = np.isnan(values)
    return np.where(gone, _filling(name, column, values[~gone], int(gone.sum())), values) if gone.any() else values


def _finished(name: str, column: ColumnTable, values: Values, trained: NDArray[np.bool_]) -> torch.Tensor:
    """The column, normalised; ``trained`` says which rows statistics are of, ``[rows]``."""
    by = _statistics(values[trained]) if isinstance(column.normalise, str) else column.normalise
    normal = (values - by.mean) / by.deviation
    if column.type == "int64" and not np.array_equal(normal, np.rint(normal)):
        raise DataError(
            "dataset_not_numeric",
            f"The column `{name}` is to be whole numbers, and has others.",
            "",
            'Say type = "float32", or mend its `classes`, `scale` or `missing`.',
        )
    return torch.from_numpy(normal).to(getattr(torch, column.type))


def _statistics(values: Values) -> Statistics:
    if not len(values):
        return Statistics()
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Statistics(mean=float(np.mean(values)), deviation=deviation or 1.0)


def _filling(name: str, column: ColumnTable, there: Values, count: int) -> float:
    """What stands in for missing values: a number of the plan's, or one of the values that are there."""
    if isinstance(column.missing, float):
        return column.missing
    if column.missing == "refuse" or not len(there):
        raise DataError(
            "values_missing",
            f"The column `{name}` has no value in {count} rows.",
            "",
            'Say what is done: missing = "drop", "mean", "median", "mode" or a number.',
        )
    if column.missing == "mode":
        numbers, times = np.unique(there, return_counts=True)
        return float(numbers[times.argmax()])
    return float(np.mean(there) if column.missing == "mean" else np.median(there))
