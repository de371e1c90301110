"""The one registry: where a strategy's name and options, which are text from outside, become a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from foedus.domain.errors import ConfigError
from foedus.domain.table import Table, nearest, validate
from foedus.strategies.fedasync import FedAsyncOptions, fedasync
from foedus.strategies.fedavg import FedAvgOptions, fedavg
from foedus.strategies.fedbuff import FedBuffOptions, fedbuff
from foedus.strategies.strategy import RunContext, Strategy


@dataclass(frozen=True)
class Listing:
    """A strategy of the catalogue: the model of its options, and its builder."""

    options: type[Table]
    build: Callable[[Any, RunContext], Strategy]


CATALOGUE: Mapping[str, Listing] = {
    "fedasync": Listing(FedAsyncOptions, fedasync),
    "fedavg": Listing(FedAvgOptions, fedavg),
    "fedbuff": Listing(FedBuffOptions, fedbuff),
}


def build(context: RunContext) -> Strategy:
    """The strategy that a run names, with its options validated.

    Raises:
        ConfigError: ``strategy_unknown``, ``config_refused``.
    """
    table = context.spec.strategy
    return listing(table.name).build(check_options(table.name, table.options), context)


def check_options(name: str, options: Mapping[str, Any]) -> Table:
    """The validated options of the strategy ``name``."""
    return validate(listing(name).options, options, f"[strategy] of {name}")


def listing(name: str) -> Listing:
    """The strategy of this name."""
    if name not in CATALOGUE:
        raise ConfigError(
            "strategy_unknown",
            f"There is no strategy `{name}`.{nearest(name, CATALOGUE)}",
            f"The catalogue has: {', '.join(sorted(CATALOGUE))}.",
            "Set `strategy.name` to one of them.",
        )
    return CATALOGUE[name]
