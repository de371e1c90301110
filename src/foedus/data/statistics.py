"""What an owner sees of a dataset's columns: type, shape, and statistics of their values. They stay with the owner."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from foedus.data.dataset import Columns

CHUNK = 1 << 20
"""Values that are looked at at once."""


def summary(columns: Columns) -> tuple[dict[str, Any], ...]:
    """Each column by name: dtype, shape of one example, and mean, standard deviation (of all values), least and most.

    >>> summary({"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})[0]["mean"]
    2.5
    """
    return tuple(
        {
            "name": name,
            "dtype": str(column.dtype).removeprefix("torch."),
            "shape": list(column.shape[1:]),
            **_of(column),
        }
        for name, column in sorted(columns.items())
    )


def _of(column: Tensor) -> dict[str, float]:
    count = column.numel()
    if not count:
        return {}
    mean = math.fsum(float(part.sum()) for part in _chunks(column)) / count
    squares = math.fsum(float((part - mean).square().sum()) for part in _chunks(column))
    low, high = (
        found(float(pick(part)) for part in _chunks(column)) for found, pick in ((min, torch.min), (max, torch.max))
    )
    return {"mean": mean, "deviation": math.sqrt(squares / count), "low": low, "high": high}


def _chunks(column: Tensor) -> Iterator[Tensor]:
    return (part.double() for part in torch.split(column.flatten(), CHUNK))
