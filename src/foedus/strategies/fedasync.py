"""FedAsync: every update makes a new model at once. Run it under the schedule ``buffered`` with a buffer of one.

Xie, Koyejo and Gupta, Asynchronous Federated Optimization (OPT 2020, https://arxiv.org/abs/1903.03934), Algorithm 1:
with ``alpha_t = alpha * s(tau)``, the form ``mixing`` is ``w = (1 - alpha_t) * w + alpha_t * w_end``. The form
``difference``, ``w = w - alpha_t * (w_start - w_end)``, is FedBuff with a buffer of one. Where nothing is stale the two
are the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from foedus.domain.errors import ConfigError
from foedus.domain.round import Aggregate
from foedus.domain.table import Table
from foedus.domain.timing import BufferedTable
from foedus.domain.training import LocalTable, OwnOptions
from foedus.domain.tree import State
from foedus.local.sending import ends
from foedus.optim.optimizer import ServerOptions
from foedus.strategies.fedavg import averaging
from foedus.strategies.strategy import Recipe, RunContext, Strategy, compose


class FedAsyncOptions(Table):
    """``local``: what clients do; ``alpha``: how much of an update that is not stale goes into the model."""

    local: LocalTable = OwnOptions()
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.6
    form: Literal["mixing", "difference"] = "mixing"


def fedasync(options: FedAsyncOptions, context: RunContext) -> Strategy:
    """FedAsync in either form.

    Raises:
        ConfigError: ``strategy_unsound`` under another schedule, or with a larger buffer.
    """
    schedule = context.spec.schedule
    if not isinstance(schedule, BufferedTable) or schedule.buffer != 1:
        raise ConfigError(
            "strategy_unsound",
            "fedasync runs under the schedule `buffered` with a buffer of 1 alone.",
            "Every update makes a new model.",
            'Set `name = "buffered"` and `buffer = 1` in [schedule], or use the strategy `fedbuff`.',
        )
    recipe = averaging("fedasync", options.local, ServerOptions(lr=options.alpha), context)
    return compose(recipe if options.form == "difference" else _mixing(recipe, options.alpha), context)


def _mixing(recipe: Recipe, alpha: float) -> Recipe:
    """Clients send the parameters that they end with; the server goes towards them."""

    def step(state: State, aggregate: Aggregate) -> State:
        (factor,) = aggregate.factors or (1.0,)
        model = dict(state.tensors["model"])
        for name, end in aggregate.tensors.get("parameters", {}).items():
            model[name] = model[name].lerp(end, alpha * factor)
        model.update(aggregate.tensors.get("buffers", {}))
        return State({**state.tensors, "model": model}, state.data)

    parts = {name: replace(part, discounted=False) for name, part in recipe.schema.parts.items()}
    return replace(recipe, work=ends(recipe.work), schema=replace(recipe.schema, parts=parts), step=step)
