"""Aggregation as a fold: ``zero``, ``add``, ``merge``, ``finish``. ``merge`` is associative, with ``zero`` as identity.

So contributions stream through one accumulator, in blocks, on many workers, and by slices of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from foedus.domain.tree import Parts


@dataclass
class Sums:
    """An accumulator: sums per part and name, the weight in each part, and the number of contributions."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    count: int = 0


@dataclass(frozen=True)
class Aggregator:
    """``add`` and ``merge`` write into their first argument, which the caller made, and return it.

    ``linear``: to add is to merge ``Sums`` of weight × update, so the sum over many may be made in any way.
    ``columns``: ``Sums`` hold every contribution until ``finish``, so what is folded at once has to be small.
    """

    zero: Callable[[], Sums]
    add: Callable[[Sums, Parts, Mapping[str, float]], Sums]
    merge: Callable[[Sums, Sums], Sums]
    finish: Callable[[Sums], Parts]
    linear: bool = False
    columns: bool = False
