"""Evaluation on a client's own test part: the plan's loss and metrics of the broadcast model, and no update."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from foedus.data.dataset import Examples
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast
from foedus.domain.tree import State, Tensors
from foedus.local.work import Account, Batch, Carry, Finished, LocalWork, Measured

log = logging.getLogger(__name__)

ALL = ""
"""What all rows are counted under."""


def evaluation(objective: Measured) -> LocalWork:
    """Client work that measures; a client's state does not change."""

    def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
        begun: Carry = {"sums": {}, "seen": {}, "state": dict(state.tensors)}
        return {"model": objective.place(broadcast.tensors["model"]), **begun}

    def step(carry: Carry, batch: Batch) -> tuple[Carry, Mapping[str, Tensor]]:
        measured = objective.measure(carry["model"], batch)
        _add(carry["sums"], carry["seen"], measured, batch.rows)
        return carry, measured

    def finish(broadcast: Broadcast, carry: Carry) -> Finished:
        return Finished({}, _whole(carry["sums"], carry["seen"]), carry["state"])

    def order(examples: int, state: State, rng: Randomness) -> list[slice]:
        return _pieces(examples, objective.at_once)

    return LocalWork(order, init, step, finish, _account)


def measure(objective: Measured, model: Tensors, examples: Examples) -> dict[str, float]:
    """Loss and metrics of a model on examples, in large batches: for the held-out part, on the researcher's side."""
    placed, sums, seen = objective.place(model), dict[str, Tensor](), dict[str, Tensor]()
    for rows in _pieces(len(examples), objective.at_once):
        chosen = examples.take(rows)
        _add(sums, seen, objective.measure(placed, Batch(chosen.inputs, chosen.targets)), len(chosen))
    return {name: float(total) / len(examples) for name, total in _whole(sums, seen).items()}


def _add(sums: dict[str, Tensor], seen: dict[str, Tensor], measured: Mapping[str, Tensor], rows: Tensor | int) -> None:
    """Add what a batch came to; ``seen`` counts the rows, all of them and those of each metric."""
    for name, value in measured.items():
        sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.double() * rows
    for name in (ALL, *measured):
        seen[name] = seen.get(name, torch.zeros((), dtype=torch.float64)) + rows


def _whole(sums: Mapping[str, Tensor], seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums of metrics that every batch has, and that are numbers; of the others it is said in the log."""
    kept = {name: total for name, total in sums.items() if bool(seen[name] == seen[ALL] and total.isfinite())}
    if missing := sorted(set(sums) - set(kept)):
        log.warning("not measured, since it failed or is no number on some batch: %s", ", ".join(missing))
    return kept


def _account(examples: int, state: State) -> Account:
    return Account({"examples": float(examples)}, state.data)


def _pieces(examples: int, at_once: int) -> list[slice]:
    return [slice(at, min(at + at_once, examples)) for at in range(0, examples, at_once)]
