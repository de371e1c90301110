"""Evaluation on a client's own test part: the plan's loss and metrics of the broadcast model, and no update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from foedus.data.dataset import ClientData, Examples
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast
from foedus.domain.tree import State, Tensors
from foedus.local.work import Batch, Carry, Finished, LocalWork, Objective

TEST_BATCH = 1024


def evaluation(objective: Objective) -> LocalWork:
    """Client work that measures; a client's state does not change."""

    def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
        return {"model": objective.place(broadcast.tensors["model"]), "state": state, "sums": {}}

    def step(carry: Carry, batch: Batch) -> tuple[Carry, Mapping[str, Tensor]]:
        measured = objective.measure(carry["model"], batch)
        _add(carry["sums"], measured, len(batch.targets))
        return carry, measured

    def finish(broadcast: Broadcast, carry: Carry, data: ClientData) -> Finished:
        examples = len(data.test)
        metrics = {name: float(total) / examples for name, total in carry["sums"].items()}
        return Finished({}, {"examples": float(examples)}, carry["state"], metrics)

    return LocalWork(_test_batches, init, step, finish)


def measure(objective: Objective, model: Tensors, examples: Examples) -> dict[str, float]:
    """Loss and metrics of a model on examples, in large batches: for the held-out part, on the researcher's side."""
    placed, sums = objective.place(model), dict[str, Tensor]()
    for batch in _in_order(examples):
        _add(sums, objective.measure(placed, batch), len(batch.targets))
    return {name: float(total) / len(examples) for name, total in sums.items()}


def _add(sums: dict[str, Tensor], measured: Mapping[str, Tensor], rows: int) -> None:
    for name, value in measured.items():
        sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.double() * rows


def _test_batches(data: ClientData, state: State, rng: Randomness) -> Iterator[Batch]:
    return _in_order(data.test)


def _in_order(examples: Examples) -> Iterator[Batch]:
    for at in range(0, len(examples), TEST_BATCH):
        yield Batch(examples.inputs[at : at + TEST_BATCH], examples.targets[at : at + TEST_BATCH])
