"""What a partitioner is given and gives: rows to divide, and groups of their indices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from foedus.data.dataset import Columns, count
from foedus.data.files import check_column
from foedus.domain.errors import DataError

Generator = np.random.Generator
Groups = list[np.ndarray[Any, np.dtype[np.int64]]]
Minimum = Annotated[int, Field(ge=0, le=2**53)]


@dataclass(frozen=True)
class Rows:
    """The rows of a data set, and which column is their label."""

    columns: Columns
    label: str

    @property
    def count(self) -> int:
        """How many there are."""
        return count(self.columns)

    @cached_property
    def labels(self) -> Any:
        """The classes ``[n]``, for partitioners that look at them.

        Raises:
            DataError: ``column_missing``, ``labels_not_classes``.
        """
        return self.whole(self.label)

    def whole(self, column: str) -> Any:
        """A column of whole numbers ``[n]``.

        Raises:
            DataError: ``column_missing``, ``labels_not_classes``.
        """
        check_column(self.columns, column, "The data set")
        values = self.columns[column].numpy()
        whole = values.astype(np.int64) if values.ndim == 1 and bool(np.isfinite(values).all()) else None
        if whole is None or not np.array_equal(whole, values):
            raise DataError(
                "labels_not_classes",
                f"The column `{column}` does not hold one whole number per example.",
                "This partition divides by class.",
                "Name a column of classes with `[data] label`, or use `iid` or a partition by size.",
            )
        return whole


Divide = Callable[[Rows, int, Any, Generator], Groups]
"""``(rows, clients, options, generator) → one group of indices per client``."""


def too_thin(why: str) -> DataError:
    """The refusal of a partition that leaves clients with less than was asked."""
    return DataError(
        "partition_too_thin",
        "The partition leaves clients without enough examples.",
        f"{why[:1].upper()}{why[1:]}.",
        "Lower `clients` or `minimum`, or choose a partition that differs less.",
    )
