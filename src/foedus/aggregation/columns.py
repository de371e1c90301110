"""Aggregation by columns: a rule that sees one coordinate of every contribution at once, and gives one number for it.

It is a fold like any other, whose sum holds the contributions one under another, ``[n, ...]``, in the order in which
they were added, until ``finish`` reduces the rows. A column is reduced by itself, so the bits are the same whether
whole tensors are reduced or windows of them, and a coordinator works in the memory of ``n`` times a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from foedus.aggregation.aggregator import Aggregator, Sums
from foedus.aggregation.mean import accumulator, cast
from foedus.domain.tree import Parts, Tensors

Reduce = Callable[[Tensor], Tensor]
"""``[n, ...] → [...]``: what each column comes to, of values in the dtype that means are summed in."""


def by_columns(reduce: Reduce, dtypes: Mapping[str, Mapping[str, torch.dtype]]) -> Aggregator:
    """Reduce each column of all contributions; their weights are not looked at.

    Integers and booleans are reduced in float64 and rounded half to even; every tensor keeps its dtype, as ``dtypes``
    (part → name → dtype) says.

    >>> largest = by_columns(lambda rows: rows.amax(0), {"p": {"w": torch.float32}})
    >>> sums = largest.zero()
    >>> for value in (1.0, 5.0, 3.0):
    ...     sums = largest.add(sums, {"p": {"w": torch.full((2,), value)}}, {})
    >>> largest.finish(sums)
    {'p': {'w': tensor([5., 5.])}}
    """

    def add(sums: Sums, update: Parts, weights: Mapping[str, float]) -> Sums:
        for part, tensors in update.items():
            _append(sums, part, {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}, 1)
        sums.count += 1
        return sums

    def merge(sums: Sums, other: Sums) -> Sums:
        for part, tensors in other.tensors.items():
            _append(sums, part, tensors, other.count)
        sums.count += other.count
        return sums

    def finish(sums: Sums) -> Parts:
        return {
            part: {name: _reduced(reduce, rows[: sums.count], dtypes[part][name]) for name, rows in tensors.items()}
            for part, tensors in sums.tensors.items()
        }

    return Aggregator(Sums, add, merge, finish, columns=True)


def _append(sums: Sums, part: str, more: Tensors, count: int) -> None:
    """Write ``count`` rows after those that are there; what holds them grows twofold, so each is moved about once."""
    into = sums.tensors.setdefault(part, {})
    for name, rows in more.items():
        held, needed = into.get(name), sums.count + count
        if held is None or len(held) < needed:
            grown = rows.new_zeros((max(needed, 2 * sums.count), *rows.shape[1:]))
            if held is not None:
                grown[: sums.count] = held[: sums.count]
            held = into[name] = grown
        held[sums.count : needed] = rows[:count]


def _reduced(reduce: Reduce, rows: Tensor, dtype: torch.dtype) -> Tensor:
    return cast(reduce(rows.to(accumulator(rows.dtype))), dtype)
