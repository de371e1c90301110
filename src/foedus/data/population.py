"""Populations: the clients of a simulation by name, read on demand, so that a million cost no more than a hundred.

A population is a sorted, lazy sequence of names and a function from a client's place in it to its columns. Nothing here
holds what it was not asked for: a round that asks a hundred clients reads a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from foedus.data.dataset import Columns

DIGITS = 4
"""The digits in a numbered client's name, up to ten thousand clients."""


@dataclass(frozen=True)
class Numbered(Sequence[str]):
    """The names ``c0000``, ``c0001`` … of ``size`` clients; beyond ten thousand they are wider. Sorted as they stand.

    >>> Numbered(3)[0], Numbered(1_000_000)[-1], "c0003" in Numbered(3)
    ('c0000', 'c999999', False)
    """

    size: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        if isinstance(at, slice):
            return tuple(self[place] for place in range(*at.indices(self.size)))
        if not -self.size <= at < self.size:
            raise IndexError(at)
        return f"c{at % self.size:0{self._width}d}"

    def __contains__(self, name: object) -> bool:
        return self._place(name) is not None

    def index(self, value: object, start: int = 0, stop: int | None = None) -> int:
        """The place of a name, without a search.

        Raises:
            ValueError: where there is no such name.
        """
        place = self._place(value)
        if place is None or place not in range(*slice(start, stop).indices(self.size)):
            raise ValueError(value)
        return place

    @property
    def _width(self) -> int:
        return max(DIGITS, len(str(self.size - 1)))

    def _place(self, name: object) -> int | None:
        if not isinstance(name, str) or len(name) != 1 + self._width or not name.startswith("c"):
            return None
        digits = name[1:]
        return int(digits) if digits.isascii() and digits.isdigit() and int(digits) < self.size else None


@dataclass(frozen=True, eq=False)
class OnDemand(Mapping[str, Columns]):
    """Clients whose columns are read when they are asked for: sorted ``names``, and ``read`` from place to columns."""

    names: Sequence[str]
    read: Callable[[int], Columns]

    def __getitem__(self, name: str) -> Columns:
        return self.read(self._place(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in (self.names if isinstance(self.names, Numbered) else self._places)

    def _place(self, name: str) -> int:
        if not isinstance(self.names, Numbered):
            return self._places[name]
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(name) from None

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.names)}


@dataclass(frozen=True, eq=False)
class Division(Mapping[str, Tensor]):
    """Numbered clients with the rows that are theirs: client ``k`` has ``rows[bounds[k] : bounds[k + 1]]``."""

    rows: Tensor
    bounds: Tensor

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.at(self.names.index(name))
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @cached_property
    def names(self) -> Numbered:
        """The clients' names, sorted."""
        return Numbered(len(self))

    @property
    def sizes(self) -> Tensor:
        """Each client's number of rows, ``[clients]``."""
        return self.bounds.diff()

    def at(self, place: int) -> Tensor:
        """The rows of the client at ``place``, ``[n_k]``."""
        return self.rows[self.bounds[place] : self.bounds[place + 1]]


@dataclass(frozen=True)
class Generated:
    """``count`` clients of a user's own making: ``function`` gives the columns of the client at a place from 0."""

    count: int
    function: Callable[[int], Columns]


@dataclass(frozen=True)
class Federation:
    """The clients' columns by name, and the held-out columns, which belong to nobody.

    ``described``: run.toml alone says what they are, so that another machine can load them for itself.
    ``vertical``: each client has other columns of the same rows, where else it has other rows of the same columns.
    """

    clients: Mapping[str, Columns]
    held_out: Columns | None = None
    described: bool = False
    vertical: bool = False

    @cached_property
    def names(self) -> Sequence[str]:
        """The clients' names, sorted; lazy where the clients are."""
        return self.clients.names if isinstance(self.clients, OnDemand) else tuple(sorted(self.clients))


def federation(
    clients: Generated | Mapping[str, Columns] | Sequence[Columns], held_out: Columns | None = None
) -> Federation:
    """A federation of a user's own: a function with a count, clients by name, or a list of clients' columns.

    >>> own = federation(Generated(1_000_000, lambda place: {"x": torch.full((2,), float(place))}))
    >>> own.clients["c000007"]["x"].tolist(), len(own.names)
    ([7.0, 7.0], 1000000)
    """
    if isinstance(clients, Generated):
        return Federation(OnDemand(Numbered(clients.count), clients.function), held_out)
    if isinstance(clients, Mapping):
        return Federation(clients, held_out)
    return Federation(OnDemand(Numbered(len(clients)), clients.__getitem__), held_out)


def divided(columns: Columns, division: Division) -> OnDemand:
    """The clients of a division of one data set; a client's rows are gathered when they are asked for."""
    return OnDemand(division.names, lambda place: take(columns, division.at(place)))


def take(columns: Columns, index: Tensor) -> Columns:
    """The rows at ``index`` ``[k]``."""
    return {name: column[index] for name, column in columns.items()}


def division_of(groups: Sequence[Tensor]) -> Division:
    """The division whose client ``k`` has the rows ``groups[k]``, sorted."""
    sizes = torch.tensor([0, *map(len, groups)])
    rows, order = torch.cat([torch.empty(0, dtype=torch.int64), *groups]).sort()
    owner = torch.repeat_interleave(torch.arange(len(groups)), sizes[1:])[order]
    return Division(rows[owner.argsort(stable=True)], sizes.cumsum(0))
