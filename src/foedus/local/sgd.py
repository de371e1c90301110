"""Local SGD: ClientUpdate of Algorithm 1 in McMahan et al. 2017.

Communication-Efficient Learning of Deep Networks from Decentralized Data (AISTATS 2017,
https://arxiv.org/abs/1602.05629).

Batches are a permutation by (seed, client name, epoch); how many epochs a client has done is its state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from foedus.data.batching import batches
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast
from foedus.domain.table import Amount, Rate, Table
from foedus.domain.tree import State, device_of
from foedus.local.work import Account, Batch, Carry, Finished, LocalWork, Objective, WorkBuilder
from foedus.optim.optimizer import Decay, Optimizer, adam, clipped, sgd


class LocalOptions(Table):
    """What a client does between two messages: ``epochs`` over its examples in batches of ``batch_size``.

    ``momentum`` is SGD's; ``beta1``, ``beta2`` and ``epsilon`` are Adam's, whose ``weight_decay`` is decoupled (AdamW).
    ``clip`` bounds the norm of each batch's gradient.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Rate
    momentum: Decay = 0.0
    weight_decay: Amount = 0.0
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    epsilon: Rate = 1e-8
    clip: Rate | None = None
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    batch_size: Annotated[int, Field(ge=1)] = 10


def local_sgd(options: LocalOptions) -> WorkBuilder:
    """Client work that trains. The update: ``start - end`` of the trainable parameters, and the buffers' end values."""
    optimizer = _optimizer(options)

    def build(objective: Objective) -> LocalWork:
        def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
            model = objective.place(broadcast.tensors["model"])
            moments = optimizer.init({name: model[name] for name in objective.trainable})
            return {"model": model, "moments": moments, "loss": torch.zeros((), device=device_of(model))}

        def step(carry: Carry, batch: Batch) -> tuple[Carry, Mapping[str, Tensor]]:
            gradients, loss = objective.gradient(carry["model"], batch)
            if options.clip is not None:
                gradients = clipped(gradients, options.clip)
            optimizer.update(gradients, carry["moments"], carry["model"])
            carry["loss"] += loss * batch.rows
            return carry, {"loss": loss}

        def finish(broadcast: Broadcast, carry: Carry) -> Finished:
            start, end = broadcast.tensors["model"], carry["model"]
            update = {"parameters": {name: start[name] - end[name] for name in objective.trainable}}
            if objective.buffers:
                update["buffers"] = {name: end[name].clone() for name in objective.buffers}
            return Finished(update, {"loss": carry["loss"]})

        return LocalWork(order, init, step, finish, account)

    def order(examples: int, state: State, rng: Randomness) -> list[Tensor]:
        epochs = range(_epoch(state), _epoch(state) + options.epochs)
        return [
            index for epoch in epochs for index in batches(examples, options.batch_size, rng.seed, rng.client, epoch)
        ]

    def account(examples: int, state: State) -> Account:
        return Account({"examples": float(examples)}, {**state.data, "epoch": _epoch(state) + options.epochs})

    return build


def _optimizer(options: LocalOptions) -> Optimizer:
    if options.optimizer == "sgd":
        return sgd(options.lr, options.momentum, options.weight_decay)
    return adam(options.lr, (options.beta1, options.beta2), options.epsilon, options.weight_decay)


def _epoch(state: State) -> int:
    epoch = state.data.get("epoch", 0)
    return epoch if isinstance(epoch, int) else 0
