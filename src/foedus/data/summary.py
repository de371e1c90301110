"""What each client of a federation holds: how many examples, and how many of each label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus.data.dataset import Columns, count
from foedus.data.population import Federation

CLASSES = 100
"""More different labels than this are not told apart."""


@dataclass(frozen=True)
class Holding:
    """One client's number of examples, and of each label; no labels where the label is not a class, or is not there."""

    client: str
    examples: int
    labels: Mapping[int, int]


def holdings(federation: Federation, label: str, limit: int) -> list[Holding]:
    """The first ``limit`` clients' holdings, in the order of names; each client's columns are read once."""
    found = [holding(name, federation.clients[name], label) for name in federation.names[:limit]]
    every = {value for one in found for value in one.labels}
    return found if len(every) <= CLASSES else [Holding(one.client, one.examples, {}) for one in found]


def holding(client: str, columns: Columns, label: str) -> Holding:
    """What one client holds.

    >>> holding("c", {"label": torch.tensor([1, 0, 1])}, "label")
    Holding(client='c', examples=3, labels={0: 1, 1: 2})
    """
    return Holding(client, count(columns), _counts(columns[label]) if label in columns else {})


def _counts(column: Tensor) -> dict[int, int]:
    if column.ndim != 1 or not bool((column == column.long()).all()):
        return {}
    values, counts = torch.unique(column.long(), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
