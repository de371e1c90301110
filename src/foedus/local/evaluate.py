"""Evaluation on a client's own test part: the plan's loss and metrics of the broadcast model, and no update."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foedus.data.dataset import Examples
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast
from foedus.domain.tree import State, Tensors
from foedus.local.work import Account, Batch, Carry, Finished, LocalWork, Objective

TEST_BATCH = 1024


def evaluation(objective: Objective) -> LocalWork:
    """Client work that measures; a client's state does not change."""

    def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
        return {"model": objective.place(broadcast.tensors["model"]), "sums": {}, "state": dict(state.tensors)}

    def step(carry: Carry, batch: Batch) -> tuple[Carry, Mapping[str, Tensor]]:
        measured = objective.measure(carry["model"], batch)
        _add(carry["sums"], measured, batch.rows)
        return carry, measured

    def finish(broadcast: Broadcast, carry: Carry) -> Finished:
        return Finished({}, carry["sums"], carry["state"])

    return LocalWork(_in_order, init, step, finish, _account)


def measure(objective: Objective, model: Tensors, examples: Examples) -> dict[str, float]:
    """Loss and metrics of a model on examples, in large batches: for the held-out part, on the researcher's side."""
    placed, sums = objective.place(model), dict[str, Tensor]()
    for rows in _pieces(len(examples)):
        chosen = examples.take(rows)
        _add(sums, objective.measure(placed, Batch(chosen.inputs, chosen.targets)), len(chosen))
    return {name: float(total) / len(examples) for name, total in sums.items()}


def _add(sums: dict[str, Tensor], measured: Mapping[str, Tensor], rows: Tensor | int) -> None:
    for name, value in measured.items():
        sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.double() * rows


def _in_order(examples: int, state: State, rng: Randomness) -> list[slice]:
    return _pieces(examples)


def _account(examples: int, state: State) -> Account:
    return Account({"examples": float(examples)}, state.data)


def _pieces(examples: int) -> list[slice]:
    return [slice(at, min(at + TEST_BATCH, examples)) for at in range(0, examples, TEST_BATCH)]
