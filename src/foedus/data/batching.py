"""Batches: a permutation by (seed, client name, epoch), cut in order; the last batch may be smaller."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from foedus.domain.rng import generator


def permutation(seed: int, client: str, epoch: int, n: int) -> Tensor:
    """The order of ``n`` examples in one epoch (0-based) of a client, ``[n]``."""
    return torch.randperm(n, generator=generator(seed, epoch, client, "batches"))


def batch_count(n: int, size: int) -> int:
    """How many batches an epoch has.

    >>> batch_count(25, 10)
    3
    """
    return -(-n // size)


def batches(n: int, size: int, seed: int, client: str, epoch: int) -> Iterator[Tensor]:
    """Index tensors of at most ``size`` examples that cover the epoch.

    >>> [len(batch) for batch in batches(25, 10, 1, "c0000", 0)]
    [10, 10, 5]
    """
    yield from torch.split(permutation(seed, client, epoch, n), size)
