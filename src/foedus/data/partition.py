"""Partitions: how the examples of one data set are divided among simulated clients.

The same seed gives the same split everywhere: NumPy's PCG64 is seeded by ``derive(seed, 0, "", "partition")``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foedus.data.by_label import (
    DirichletOptions,
    LabelsOptions,
    ShardsOptions,
    dirichlet,
    labels_per_client,
    shards,
)
from foedus.data.by_size import (
    DirichletSizesOptions,
    LognormalOptions,
    PowerLawOptions,
    SizesOptions,
    by_size,
    dirichlet_sizes,
    exponential,
    linear,
    lognormal,
    power_law,
    square,
)
from foedus.data.column_splits import NoiseOptions, VerticalOptions, noisy, vertical
from foedus.data.dataset import Columns
from foedus.data.divisions import Divide, Generator, Groups, Minimum, Rows, too_thin
from foedus.data.population import Division, Federation, divided, division_of
from foedus.domain.errors import ConfigError
from foedus.domain.rng import derive
from foedus.domain.run import PartitionTable
from foedus.domain.table import Table, Text, nearest, validate

BY_COLUMN, NOISE, VERTICAL = "by_column", "feature_noise", "vertical"


class IidOptions(Table):
    """``minimum``: examples that each client has at least."""

    minimum: Minimum = 1


class ColumnOptions(Table):
    """``column``: the one whose values are the clients."""

    column: Text
    minimum: Minimum = 1


def clients_of(columns: Columns, label: str, table: PartitionTable, seed: int) -> Federation:
    """The clients that a partition makes of a data set.

    Raises:
        ConfigError: ``partitioner_unknown``, ``config_refused``.
        DataError: ``partition_too_thin``, ``column_missing``, ``labels_not_classes``.
    """
    _, options = _known(table)
    if table.name == VERTICAL:
        return Federation(vertical(Rows(columns, label), _clients(table), options), vertical=True)
    clients = divided(columns, partition(columns, label, table, seed))
    return Federation(noisy(clients, options, label, seed) if table.name == NOISE else clients)


def partition(columns: Columns, label: str, table: PartitionTable, seed: int) -> Division:
    """Clients ``c0000`` … with the sorted indices of their examples, ``[n_k]``; no example has two clients.

    Raises:
        ConfigError: ``partitioner_unknown``, ``config_refused``.
        DataError: ``partition_too_thin`` where clients would have fewer examples than their minimum;
            ``column_missing``, ``labels_not_classes``.
    """
    known, options = _known(table)
    rows = Rows(columns, label)
    if table.name == BY_COLUMN and table.clients is not None:
        raise ConfigError(
            "config_refused",
            "`data.partition.clients` is not a key of `by_column`.",
            "The column's values are the clients.",
            "Leave it out.",
        )
    clients = 1 if table.name == BY_COLUMN else _clients(table)
    if clients * options.minimum > rows.count:
        raise too_thin(f"{clients} clients with {options.minimum} examples at least share {rows.count}")
    generator = np.random.Generator(np.random.PCG64(derive(seed, 0, "", "partition")))
    groups = known.divide(rows, clients, options, generator)
    smallest = min(map(len, groups))
    if smallest < options.minimum:
        raise too_thin(f"one of {len(groups)} clients has {smallest} examples, and {options.minimum} are asked for")
    return division_of([torch.from_numpy(group) for group in groups])


def iid(rows: Rows, clients: int, options: IidOptions, generator: Generator) -> Groups:
    """Shuffle, and deal out evenly (McMahan et al., AISTATS 2017, section 3)."""
    return np.array_split(generator.permutation(rows.count), clients)


def by_column(rows: Rows, clients: int, options: ColumnOptions, generator: Generator) -> Groups:
    """One client for each value of a column of whole numbers, in their order: the natural partition."""
    _, codes = np.unique(rows.whole(options.column), return_inverse=True)
    return np.split(np.argsort(codes, kind="stable"), np.bincount(codes).cumsum()[:-1])


@dataclass(frozen=True)
class Partitioner:
    """The model of a partitioner's options, and the function that divides."""

    options: type[Table]
    divide: Divide


PARTITIONERS: Mapping[str, Partitioner] = {
    "iid": Partitioner(IidOptions, iid),
    "dirichlet": Partitioner(DirichletOptions, dirichlet),
    "shards": Partitioner(ShardsOptions, shards),
    "labels_per_client": Partitioner(LabelsOptions, labels_per_client),
    "lognormal": Partitioner(LognormalOptions, by_size(lognormal)),
    "power_law": Partitioner(PowerLawOptions, by_size(power_law)),
    "dirichlet_sizes": Partitioner(DirichletSizesOptions, by_size(dirichlet_sizes)),
    "linear": Partitioner(SizesOptions, by_size(linear)),
    "square": Partitioner(SizesOptions, by_size(square)),
    "exponential": Partitioner(SizesOptions, by_size(exponential)),
    BY_COLUMN: Partitioner(ColumnOptions, by_column),
    NOISE: Partitioner(NoiseOptions, iid),
    VERTICAL: Partitioner(VerticalOptions, iid),
}


def _known(table: PartitionTable) -> tuple[Partitioner, Any]:
    if table.name not in PARTITIONERS:
        raise ConfigError(
            "partitioner_unknown",
            f"There is no partitioner `{table.name}`.{nearest(table.name, PARTITIONERS)}",
            f"There are: {', '.join(sorted(PARTITIONERS))}.",
            "Set `data.partition.name` to one of them.",
        )
    known = PARTITIONERS[table.name]
    return known, validate(known.options, table.options, f"[data] partition of {table.name}")


def _clients(table: PartitionTable) -> int:
    if table.clients is None:
        raise ConfigError(
            "config_refused",
            f"`data.partition.clients` is missing: `{table.name}` does not know how many clients there are.",
            "",
            "Add, say, clients = 10.",
        )
    return table.clients
