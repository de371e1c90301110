"""Partitions: how the examples of one data set are divided among simulated clients.

The same seed gives the same split everywhere: NumPy's PCG64 is seeded by ``derive(seed, 0, "", "partition")``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from foedus.data.population import Division, division_of
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.rng import derive
from foedus.domain.run import PartitionTable
from foedus.domain.table import Rate, Table, nearest, validate

REDRAWS = 1000

Groups = list[np.ndarray[Any, np.dtype[np.int64]]]


class IidOptions(Table):
    """No options."""


class DirichletOptions(Table):
    """``alpha``: small means each label sits with few clients. ``minimum``: examples that each client has at least."""

    alpha: Rate
    minimum: Annotated[int, Field(ge=0)] = 1


class ShardsOptions(Table):
    """``shards_per_client``: how many runs of examples sorted by label each client gets."""

    shards_per_client: Annotated[int, Field(ge=1)] = 2


def partition(labels: Tensor, table: PartitionTable, seed: int) -> Division:
    """Client names ``c0000`` … with the sorted indices of their examples, ``[n_k]``; every example has one client.

    Raises:
        ConfigError: ``partitioner_unknown``, ``config_refused``.
        DataError: ``partition_too_thin`` where the examples do not suffice for the clients.
    """
    if table.name not in PARTITIONERS:
        raise ConfigError(
            "partitioner_unknown",
            f"There is no partitioner `{table.name}`.{nearest(table.name, PARTITIONERS)}",
            f"There are: {', '.join(sorted(PARTITIONERS))}.",
        )
    known = PARTITIONERS[table.name]
    options = validate(known.options, table.options, f"[data] partition of {table.name}")
    if table.clients > len(labels):
        raise _too_thin(f"{table.clients} clients share {len(labels)} examples")
    generator = np.random.Generator(np.random.PCG64(derive(seed, 0, "", "partition")))
    groups = known.divide(labels.numpy(), table.clients, options, generator)
    return division_of([torch.from_numpy(group) for group in groups])


def iid(labels: Any, clients: int, options: IidOptions, generator: np.random.Generator) -> Groups:
    """Shuffle, and deal out evenly (McMahan et al., AISTATS 2017, section 3)."""
    return [group.astype(np.int64) for group in np.array_split(generator.permutation(len(labels)), clients)]


def dirichlet(labels: Any, clients: int, options: DirichletOptions, generator: np.random.Generator) -> Groups:
    """Divide each label's examples by proportions from Dirichlet(alpha), until every client has ``minimum``.

    After Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification (2019, https://arxiv.org/abs/1909.06335); by label over clients, as in Yurochkin et al. (ICML 2019).
    """
    for _ in range(REDRAWS):
        owner = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            index = generator.permutation(np.flatnonzero(labels == label))
            shares = generator.dirichlet(np.full(clients, options.alpha))
            cuts = (np.cumsum(shares)[:-1] * len(index)).astype(np.int64)
            owner[index] = np.repeat(np.arange(clients), np.diff(np.r_[0, cuts, len(index)]))
        sizes = np.bincount(owner, minlength=clients)
        if sizes.min() >= options.minimum:
            return [np.flatnonzero(owner == client) for client in range(clients)]
    raise _too_thin(f"no draw of {REDRAWS} gave each of {clients} clients {options.minimum} examples")


def shards(labels: Any, clients: int, options: ShardsOptions, generator: np.random.Generator) -> Groups:
    """Sort by label, cut into equal shards, deal each client so many (McMahan et al., AISTATS 2017, section 3)."""
    count = clients * options.shards_per_client
    if count > len(labels):
        raise _too_thin(f"{count} shards of {len(labels)} examples")
    cut = np.array_split(np.argsort(labels, kind="stable"), count)
    dealt = generator.permutation(count).reshape(clients, options.shards_per_client)
    return [np.concatenate([cut[shard] for shard in row]).astype(np.int64) for row in dealt]


@dataclass(frozen=True)
class Partitioner:
    """The model of a partitioner's options, and the function that divides."""

    options: type[Table]
    divide: Callable[[Any, int, Any, np.random.Generator], Groups]


PARTITIONERS: Mapping[str, Partitioner] = {
    "iid": Partitioner(IidOptions, iid),
    "dirichlet": Partitioner(DirichletOptions, dirichlet),
    "shards": Partitioner(ShardsOptions, shards),
}


def _too_thin(why: str) -> DataError:
    return DataError(
        "partition_too_thin",
        "The partition leaves clients without enough examples.",
        f"{why[:1].upper()}{why[1:]}.",
        "Lower `clients` or `minimum`, or raise `alpha`.",
    )
