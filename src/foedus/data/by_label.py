"""Partitions by label: who holds which classes. Small parameters mean clients that differ much."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from foedus.data.divisions import Generator, Groups, Minimum, Rows, too_thin
from foedus.domain.table import Rate, Table

REDRAWS = 1000


class DirichletOptions(Table):
    """``alpha``: small means each label sits with few clients. ``minimum``: examples that each client has at least.

    ``balanced``: clients have equally many examples (Hsu et al. 2019); otherwise their sizes follow from the draw
    (Yurochkin et al. 2019).
    """

    alpha: Rate
    minimum: Minimum = 1
    balanced: bool = False


class ShardsOptions(Table):
    """``shards_per_client``: how many runs of examples sorted by label each client gets."""

    shards_per_client: Annotated[int, Field(ge=1)] = 2
    minimum: Minimum = 1


class LabelsOptions(Table):
    """``labels``: how many different labels each client has."""

    labels: Annotated[int, Field(ge=1)]
    minimum: Minimum = 1


def dirichlet(rows: Rows, clients: int, options: DirichletOptions, generator: Generator) -> Groups:
    """Divide each label's examples by proportions from Dirichlet(alpha), until every client has ``minimum``.

    By label over clients: Yurochkin et al., Bayesian Nonparametric Federated Learning of Neural Networks, ICML 2019,
    section 4 (https://arxiv.org/abs/1905.12022). With ``balanced``, each client draws its own mixture of labels and has
    equally many examples: Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification, 2019, section 3 (https://arxiv.org/abs/1909.06335).
    """
    if options.balanced:
        return _mixtures(rows.labels, clients, options.alpha, generator)
    labels = rows.labels
    for _ in range(REDRAWS):
        owner = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            index = generator.permutation(np.flatnonzero(labels == label))
            shares = generator.dirichlet(np.full(clients, options.alpha))
            cuts = (np.cumsum(shares)[:-1] * len(index)).astype(np.int64)
            owner[index] = np.repeat(np.arange(clients), np.diff(np.r_[0, cuts, len(index)]))
        sizes = np.bincount(owner, minlength=clients)
        if sizes.min() >= options.minimum:
            order = np.argsort(owner, kind="stable")
            return np.split(order, np.cumsum(sizes)[:-1])
    raise too_thin(f"no draw of {REDRAWS} gave each of {clients} clients {options.minimum} examples")


def _mixtures(labels: Any, clients: int, alpha: float, generator: Generator) -> Groups:
    """Each client draws q ~ Dirichlet(alpha · p), p the labels' shares, and fills its quota by q while labels last."""
    values, counts = np.unique(labels, return_counts=True)
    stock = [generator.permutation(np.flatnonzero(labels == value)) for value in values]
    left = counts.copy()
    quotas = np.diff(np.linspace(0, len(labels), clients + 1).astype(np.int64))
    groups = []
    for quota in quotas:
        q = generator.dirichlet(alpha * counts / counts.sum())
        taken = np.zeros_like(left)
        while need := quota - taken.sum():
            weights = np.where(left > taken, q, 0.0)
            # Where the labels that the mixture knows are used up, the others are drawn as they are left.
            weights = weights if weights.sum() > 0 else (left - taken).astype(np.float64)
            taken += np.minimum(generator.multinomial(need, weights / weights.sum()), left - taken)
        groups.append(np.concatenate([own[n - k : n] for own, n, k in zip(stock, left, taken, strict=True)]))
        left = left - taken
    return groups


def shards(rows: Rows, clients: int, options: ShardsOptions, generator: Generator) -> Groups:
    """Sort by label, cut into equal shards, deal each client so many (McMahan et al., AISTATS 2017, section 3)."""
    count = clients * options.shards_per_client
    if count > rows.count:
        raise too_thin(f"{count} shards of {rows.count} examples")
    cut = np.array_split(np.argsort(rows.labels, kind="stable"), count)
    dealt = generator.permutation(count).reshape(clients, options.shards_per_client)
    return [np.concatenate([cut[shard] for shard in row]) for row in dealt]


def labels_per_client(rows: Rows, clients: int, options: LabelsOptions, generator: Generator) -> Groups:
    """Each client has so many labels; a label's examples are dealt evenly among the clients that have it.

    Client ``i`` has label ``i mod K`` and others at random. Examples of a label that no client has are left out. Li,
    Diao, Chen and He, Federated Learning on Non-IID Data Silos, ICDE 2022, section IV-A, ``#C = k``
    (https://arxiv.org/abs/2102.02079).
    """
    values = np.unique(rows.labels)
    if options.labels > len(values):
        raise too_thin(f"each client is to have {options.labels} labels, and there are {len(values)}")
    owners: list[list[int]] = [[] for _ in values]
    for client in range(clients):
        first = client % len(values)
        others = generator.permutation(np.delete(np.arange(len(values)), first))[: options.labels - 1]
        for label in (first, *others.tolist()):
            owners[label].append(client)
    parts: list[list[Any]] = [[np.empty(0, dtype=np.int64)] for _ in range(clients)]
    for value, having in zip(values, owners, strict=True):
        index = generator.permutation(np.flatnonzero(rows.labels == value))
        for client, part in zip(having, np.array_split(index, len(having)) if having else [], strict=True):
            parts[client].append(part)
    return [np.concatenate(part) for part in parts]
