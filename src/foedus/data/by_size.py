"""Partitions by size: every client's examples are a uniform sample, and clients have more or fewer of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from foedus.data.divisions import Divide, Generator, Groups, Minimum, Rows
from foedus.domain.table import Rate, Table


class SizesOptions(Table):
    """``minimum``: what each client has before the rest is divided."""

    minimum: Minimum = 1


class LognormalOptions(Table):
    """``sigma``: the standard deviation of the logarithm of a size."""

    sigma: Rate = 1.0
    minimum: Minimum = 1


class PowerLawOptions(Table):
    """``exponent``: client ``k`` (from 1) has a size that goes with ``k ** -exponent``."""

    exponent: Rate = 1.0
    minimum: Minimum = 1


class DirichletSizesOptions(Table):
    """``alpha``: small means that few clients have most examples."""

    alpha: Rate
    minimum: Minimum = 1


Weights = Callable[[int, Any, Generator], Any]


def by_size(weights: Weights) -> Divide:
    """The partition whose sizes go with ``weights(clients, options, generator)`` ``[clients]``, above the minimum."""

    def divide(rows: Rows, clients: int, options: Any, generator: Generator) -> Groups:
        drawn = np.asarray(weights(clients, options, generator), dtype=np.float64)
        sizes = options.minimum + apportion(drawn, rows.count - clients * options.minimum)
        return np.split(generator.permutation(rows.count), np.cumsum(sizes)[:-1])

    return divide


def apportion(weights: Any, total: int) -> Any:
    """Whole numbers ``[clients]`` that sum to ``total`` and go with the weights, by largest remainders.

    >>> apportion(np.array([1.0, 2.0, 4.0]), 10).tolist()
    [1, 3, 6]
    """
    exact = weights / weights.sum() * total
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    short = total - int(sizes.sum())
    # Remainders that differ by rounding alone are equal, so that every processor gives the same sizes.
    sizes[np.argsort(np.round(sizes - exact, 6), kind="stable")[:short]] += 1
    return sizes


def lognormal(clients: int, options: LognormalOptions, generator: Generator) -> Any:
    """Sizes whose logarithm is normal (as in LEAF's and FedProx's synthetic data; Li et al., MLSys 2020)."""
    return np.exp(options.sigma * generator.standard_normal(clients))


def power_law(clients: int, options: PowerLawOptions, generator: Generator) -> Any:
    """Sizes that fall with a power of the rank (Li et al., Federated Optimization in Heterogeneous Networks, 2020)."""
    return np.arange(1, clients + 1) ** -float(options.exponent)


def dirichlet_sizes(clients: int, options: DirichletSizesOptions, generator: Generator) -> Any:
    """Sizes from Dirichlet(alpha) (quantity skew ``q ~ Dir(β)``; Li et al., ICDE 2022, section IV-C)."""
    return generator.dirichlet(np.full(clients, options.alpha))


def linear(clients: int, options: SizesOptions, generator: Generator) -> Any:
    """Client ``k`` (from 1) has a size that goes with ``k`` (Flower Datasets' LinearPartitioner)."""
    return np.arange(1, clients + 1)


def square(clients: int, options: SizesOptions, generator: Generator) -> Any:
    """Client ``k`` (from 1) has a size that goes with ``k²`` (Flower Datasets' SquarePartitioner)."""
    return np.arange(1, clients + 1, dtype=np.float64) ** 2


def exponential(clients: int, options: SizesOptions, generator: Generator) -> Any:
    """Client ``k`` (from 1) has a size that goes with ``exp(k)`` (Flower Datasets' ExponentialPartitioner)."""
    return np.exp(np.arange(1.0, clients + 1) - clients)
