"""Rules that a few bad contributions cannot move far: the coordinate-wise median and trimmed mean.

Yin, Chen, Kannan and Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates (ICML 2018,
https://arxiv.org/abs/1803.01498), Definitions 1 and 2. Every contribution counts the same, whatever its examples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foedus.aggregation.columns import Reduce


def median(rows: Tensor) -> Tensor:
    """The middle of each column of ``[n, ...]``; of an even number of rows the mean of the two in the middle.

    >>> median(torch.tensor([[1.0, 8.0], [9.0, 2.0], [3.0, 4.0]]))
    tensor([3., 4.])
    >>> median(torch.tensor([[1.0], [100.0], [2.0], [4.0]]))
    tensor([3.])
    """
    ordered, half = _ordered(rows), len(rows) // 2
    return ordered[half].clone() if len(rows) % 2 else ordered[half - 1].add(ordered[half]).div_(2)


def trimmed_mean(trim: float) -> Reduce:
    """The mean of each column without its ``floor(trim · n)`` least and as many largest values (``0 <= trim < 0.5``).

    >>> trimmed_mean(0.25)(torch.tensor([[1.0], [-50.0], [3.0], [1000.0]]))
    tensor([2.])
    """

    def reduce(rows: Tensor) -> Tensor:
        cut = trimmed(trim, len(rows))
        kept = _ordered(rows)[cut : len(rows) - cut]
        total = kept[0].clone()
        for row in kept[1:]:  # one after another: a sum over rows by torch depends on the shape that it is given
            total.add_(row)
        return total.div_(len(kept))

    return reduce


def trimmed(trim: float, count: int) -> int:
    """How many values are cut from each end of ``count``; half of them are never cut.

    >>> trimmed(0.1, 10), trimmed(0.1, 9)
    (1, 0)
    """
    # 0.3 · 10 is a little less than 3 in floating point, and 3 are meant.
    return min(math.floor(round(trim * count, 9)), (count - 1) // 2)


def _ordered(rows: Tensor) -> Tensor:
    """Each column in order. Values that are equal and not the same (0 and -0) keep the order of the contributions."""
    return torch.sort(rows, dim=0, stable=True).values
