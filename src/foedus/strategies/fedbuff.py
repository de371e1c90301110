"""FedBuff: FedAvg's text under the schedule ``buffered``.

Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation (AISTATS 2022,
https://arxiv.org/abs/2106.06639), Algorithm 1: ``w = w - eta_g / K * sum(s(tau_k) * (w_k_start - w_k_end))`` over a
buffer of K updates. Updates weigh by examples, as in FedAvg, or all the same, as in the paper; either way staleness
shrinks an update without giving what it lost to the others. A buffer of one is FedAsync in the form of differences.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from foedus.domain.errors import ConfigError
from foedus.domain.table import Table
from foedus.domain.training import LocalTable, OwnOptions
from foedus.local.sending import equally
from foedus.optim.optimizer import ServerOptions
from foedus.strategies.fedavg import averaging
from foedus.strategies.strategy import RunContext, Strategy, compose


class FedBuffOptions(Table):
    """``local``: what clients do; ``server``: the server's step; ``weighting``: by examples, or all the same."""

    local: LocalTable = OwnOptions()
    server: ServerOptions = ServerOptions()
    weighting: Literal["examples", "uniform"] = "examples"


def fedbuff(options: FedBuffOptions, context: RunContext) -> Strategy:
    """FedBuff; the buffer, the concurrency and the weight of staleness are the schedule's and the cohort's.

    Raises:
        ConfigError: ``strategy_unsound`` under another schedule.
    """
    if context.spec.schedule.name != "buffered":
        raise ConfigError(
            "strategy_unsound",
            f"fedbuff does not run under the schedule `{context.spec.schedule.name}`.",
            "It averages buffers of updates that began with different models.",
            'Set `name = "buffered"` in [schedule], or use the strategy `fedavg`.',
        )
    if options.weighting == "examples":
        return compose(averaging("fedbuff", options.local, options.server, context), context)
    recipe = averaging("fedbuff", options.local, options.server, context, weight="one")
    return compose(replace(recipe, work=equally(recipe.work, "one")), context)
