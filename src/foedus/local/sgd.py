"""Local SGD: ClientUpdate of Algorithm 1 in McMahan et al. 2017.

Communication-Efficient Learning of Deep Networks from Decentralized Data (AISTATS 2017,
https://arxiv.org/abs/1602.05629).

Batches are a permutation by (seed, client name, epoch); where a client stands among them is its state, so that work
counted in updates goes on where it ended in the round before.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from foedus.data.batching import batches
from foedus.domain.plain import Json
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast
from foedus.domain.training import LocalOptions
from foedus.domain.tree import State, Tensors, clone, device_of
from foedus.local.work import Account, Batch, Carry, Finished, LocalWork, Objective, WorkBuilder
from foedus.optim.optimizer import Optimizer, adam, clipped, sgd
from foedus.optim.rates import rate_at


def local_sgd(options: LocalOptions) -> WorkBuilder:
    """Client work that trains. The update: ``start - end`` of the trainable parameters, and the buffers' end values."""
    optimizer, schedule = _optimizer(options), options.lr_schedule

    def build(objective: Objective) -> LocalWork:
        def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
            model = objective.place(broadcast.tensors["model"])
            moments = optimizer.init({name: model[name] for name in objective.trainable})
            if options.keep_optimizer:
                moments = {part: _kept(state.tensors.get(part, fresh), fresh) for part, fresh in moments.items()}
            carry = {"model": model, "moments": moments, "loss": torch.zeros((), device=device_of(model))}
            if schedule is not None:
                taken = rng.round - 1 if schedule.over == "rounds" else _count(state, "steps")
                carry["taken"] = torch.tensor(float(taken), device=device_of(model))
            return carry

        def step(carry: Carry, batch: Batch) -> tuple[Carry, Mapping[str, Tensor]]:
            gradients, loss = objective.gradient(carry["model"], batch)
            if options.clip is not None:
                gradients = clipped(gradients, options.clip)
            rate = None if schedule is None else rate_at(schedule, options.lr, carry["taken"])
            optimizer.update(gradients, carry["moments"], carry["model"], rate)
            if schedule is not None and schedule.over == "steps":
                carry["taken"] += 1
            carry["loss"] += loss * batch.rows
            return carry, {"loss": loss}

        def finish(broadcast: Broadcast, carry: Carry) -> Finished:
            start, end = broadcast.tensors["model"], carry["model"]
            update = {"parameters": {name: start[name] - end[name] for name in objective.trainable}}
            if objective.buffers:
                update["buffers"] = {name: end[name].clone() for name in objective.buffers}
            moments = {part: clone(carry["moments"][part]) for part in optimizer.moments if options.keep_optimizer}
            return Finished(update, {"loss": carry["loss"]}, moments)

        return LocalWork(partial(_order, options), init, step, finish, partial(_account, options))

    return build


def _order(options: LocalOptions, examples: int, state: State, rng: Randomness) -> list[Tensor]:
    """The batches that come next, of so many examples."""
    epoch, first = _position(state)
    size, most = options.batch_size, options.epoch(examples)
    ahead = itertools.chain.from_iterable(
        itertools.islice(batches(examples, size, rng.seed, rng.client, number), most)
        for number in itertools.count(epoch)
    )
    return list(itertools.islice(ahead, first, first + options.updates(examples)))


def _account(options: LocalOptions, examples: int, state: State) -> Account:
    """What the work counts for, and where the client stands after it."""
    epoch, first = _position(state)
    taken = options.updates(examples)
    more, batch = divmod(first + taken, options.epoch(examples))
    counts: dict[str, Json] = {"epoch": epoch + more, "batch": batch}
    if options.lr_schedule is not None:
        counts["steps"] = _count(state, "steps") + taken
    return Account({"examples": float(examples)}, {**state.data, **counts})


def _optimizer(options: LocalOptions) -> Optimizer:
    if options.optimizer == "sgd":
        return sgd(options.lr, options.momentum, options.weight_decay)
    return adam(options.lr, (options.beta1, options.beta2), options.epsilon, options.weight_decay)


def _kept(kept: Tensors, fresh: Tensors) -> dict[str, Tensor]:
    """A copy of what was kept, in the order of what would be made anew: a stack's clients have one form of carry."""
    return {name: kept[name].clone() for name in fresh}


def _position(state: State) -> tuple[int, int]:
    """The epoch that a client is in, and how many batches of it are done."""
    return _count(state, "epoch"), _count(state, "batch")


def _count(state: State, name: str) -> int:
    count = state.data.get(name, 0)
    return count if isinstance(count, int) else 0
