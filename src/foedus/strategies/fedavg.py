"""FedAvg, and the FedOpt family, which is the same text with another server optimizer.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data (AISTATS 2017,
https://arxiv.org/abs/1602.05629), Algorithm 1; Reddi et al., Adaptive Federated Optimization (ICLR 2021,
https://arxiv.org/abs/2003.00295), Algorithms 1 and 2. The update of client k is ``w - w_k``; with the server
optimizer SGD at learning rate 1, ``w - sum(n_k/n * (w - w_k))`` is FedAvg's ``sum(n_k/n * w_k)``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foedus.aggregation.named import AggregatorOptions, aggregator_of
from foedus.aggregation.robust import trimmed
from foedus.domain.errors import ConfigError
from foedus.domain.header import TensorSpec
from foedus.domain.round import Aggregate, PartSpec, Schema
from foedus.domain.table import Table
from foedus.domain.training import LocalOptions, LocalTable, OwnOptions
from foedus.domain.tree import State, Tensors, clone, dtypes
from foedus.local.own import fitting
from foedus.local.personal import keeping, personal_names
from foedus.local.sgd import local_sgd
from foedus.optim.optimizer import ServerOptions, server_optimizer
from foedus.strategies.strategy import Recipe, RunContext, Strategy, compose

MEAN = AggregatorOptions()


class FedAvgOptions(Table):
    """``local``: what clients do; ``aggregator``: how it is combined; ``server``: the server's step."""

    local: LocalTable = OwnOptions()
    aggregator: AggregatorOptions = AggregatorOptions()
    server: ServerOptions = ServerOptions()


def fedavg(options: FedAvgOptions, context: RunContext) -> Strategy:
    """FedAvg weighted by examples, with the server optimizer and the aggregator that the options name.

    Raises:
        ConfigError: ``strategy_unsound`` where a trimmed mean would leave nobody out.
    """
    _check_trim(options.aggregator, context)
    recipe = averaging("fedavg", options.local, options.server, context, aggregator=options.aggregator)
    return compose(recipe, context)


def averaging(
    name: str,
    local: LocalOptions | OwnOptions,
    server: ServerOptions,
    context: RunContext,
    weight: str = "examples",
    aggregator: AggregatorOptions = MEAN,
) -> Recipe:
    """Local SGD, the updates' mean by the ``weight`` that clients send, or another aggregate, and the server's step."""
    optimizer = server_optimizer(server)
    schema, personal = _schema(context, weight, local)
    trainable = [name for name in context.names("parameter") if name not in personal]

    def init(model: Tensors) -> State:
        moments = optimizer.init({name: model[name] for name in trainable})
        return State({"model": dict(model), **moments})

    def step(state: State, aggregate: Aggregate) -> State:
        gradient = aggregate.tensors.get("parameters", {})
        model = dict(state.tensors["model"])
        model.update(clone({name: model[name] for name in gradient}))
        moments = {part: clone(state.tensors[part]) for part in optimizer.moments}
        optimizer.update(gradient, moments, model)
        model.update(aggregate.tensors.get("buffers", {}))
        return State({"model": model, **moments}, state.data)

    kinds = {part: {n: dtypes[t.dtype] for n, t in spec.tensors.items()} for part, spec in schema.parts.items()}
    combine = aggregator_of(aggregator, dict.fromkeys(schema.parts, weight), kinds)
    work = fitting if isinstance(local, OwnOptions) else local_sgd(local)
    work = keeping(work, personal) if personal else work
    gradients = isinstance(local, LocalOptions)
    recipe = Recipe(name, work, schema, combine, init, step, gradients=gradients)
    return replace(recipe, seen=local.seen, personal=personal, log_interval=local.log_interval)


def _check_trim(options: AggregatorOptions, context: RunContext) -> None:
    wanted = context.spec.cohort.size
    if options.name == "trimmed_mean" and wanted is not None and not trimmed(options.trim, wanted):
        raise ConfigError(
            "strategy_unsound",
            f"A trimmed mean with `trim` = {options.trim:g} leaves out none of {wanted} contributions.",
            "It would be the plain mean, which one bad contribution can move anywhere.",
            f"Raise `strategy.aggregator.trim` to at least {1 / wanted:.3g}, or the cohort.",
        )


def _schema(context: RunContext, weight: str, local: LocalOptions | OwnOptions) -> tuple[Schema, frozenset[str]]:
    """The trainable parameters' differences, and the buffers' values, which staleness does not shrink.

    Without those that are personal, whose names come with it.
    """
    personal = personal_names(local.personal, (*context.names("parameter"), *context.names("buffer")))
    parts: dict[str, Any] = {}
    for part, kind in (("parameters", "parameter"), ("buffers", "buffer")):
        sent = (t for t in context.manifest.tensors if t.kind == kind and t.name not in personal)
        chosen = {t.name: TensorSpec(t.shape, t.dtype) for t in sent}
        if chosen:
            parts[part] = PartSpec(chosen, weight, discounted=part == "parameters")
    return Schema(parts, tuple(dict.fromkeys(("examples", weight))), ("loss",)), personal
