"""What a factored weight needs that multiplies the batches' own inputs: all products with them, before the first step.

For ``x W₀ᵀ`` of all batches of all clients one product does, and ``x Rᵀ``, where ``R`` are the inputs of the batches
before, is a part of the client's Gram matrix ``X Xᵀ``. So a step touches no input at all, and copies none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus.engine.factored import Product, Where
from foedus.engine.precision import DEFAULT, library, products

EVEN = 64
"""The inputs of a stack are filled up to a multiple of this: a product of sizes that were seen before is faster."""


@dataclass(frozen=True)
class Known:
    """``inputs`` ``[rows, n]`` of all clients, one after the other, so many of each as ``lengths`` says, then zeros.

    The left factor is ``[clients, steps · rows, m]``, the ``base`` ``x W₀ᵀ`` ``[steps, clients, rows, m]`` and the
    ``gram`` ``[clients, steps · rows, steps · rows]``.
    """

    left: Tensor
    base: Tensor
    gram: Tensor
    inputs: Tensor
    lengths: Sequence[int]
    other: int

    def before(self, step: int, where: Where) -> list[Tensor]:
        """The base, and the gram and the left factor of the rows before."""
        begin, end = self._rows(step)
        return [self.base[step, where], self.gram[where, begin:end, :begin], self.left[where, :begin]]

    def now(self, step: int, where: Where) -> list[Tensor]:
        """The left one."""
        begin, end = self._rows(step)
        return [self.left[where, begin:end]]

    def _rows(self, step: int) -> tuple[int, int]:
        rows = self.base.shape[2]
        return step * rows, (step + 1) * rows

    def product(self, scale: float) -> Product:
        """With no rows where a client had no batch."""
        return Product(self.left, self.inputs, self.lengths, scale, self.other)


@dataclass(frozen=True)
class Ahead:
    """The ``inputs`` of all batches, ``lengths`` of each client, and which of them, ``filled``, each batch has.

    ``filled`` is ``[steps · clients · rows]``; a batch that is not full repeats one. ``gram`` as in :class:`Known`.
    """

    inputs: Tensor
    lengths: Sequence[int]
    filled: Tensor
    gram: Tensor


def ahead_of(inputs: Tensor, lengths: Sequence[int], filled: Tensor, rows: int, gram: Tensor) -> Ahead:
    """What is known of the inputs alone, in the memory given; the gram of rows that are no client's is zero."""
    gram.zero_()
    flat = inputs.flatten(1)[: sum(lengths)]
    with products(DEFAULT):  # each client has a length of its own, and the other library is slow at a size that is new
        for its, into in zip(torch.split(flat, list(lengths)), gram, strict=False):
            end = (len(its) - 1) // rows * rows  # no step looks back at the rows of the last batch
            if end > 0:
                torch.mm(its[rows:], its[:end].T, out=into[rows : len(its), :end])
    return Ahead(inputs, lengths, filled, gram)


def known(weight: Tensor, ahead: Ahead, left: Tensor, base: Tensor, other: int) -> Known:
    """What is known before the first step; the ``base`` in the memory given, by the ``other`` library if large."""
    inputs = ahead.inputs.flatten(1)
    with products(library(other, inputs.numel() * len(weight))):
        torch.index_select(torch.mm(inputs, weight.T), 0, ahead.filled, out=base.flatten(0, 2))
    lengths = [*ahead.lengths, *[0] * (len(ahead.gram) - len(ahead.lengths))]
    return Known(left, base, ahead.gram, inputs, lengths, other)
