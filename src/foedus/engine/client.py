"""The one way that client work is run, in every kernel's truth and on every node."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from foedus.data.dataset import ClientData
from foedus.domain.errors import ClientWorkError, FoedusError
from foedus.domain.rng import Randomness
from foedus.domain.round import Ask, Broadcast, Contribution
from foedus.domain.tree import State
from foedus.local.objective import check_finite
from foedus.local.work import Finished, LocalWork, Objective
from foedus.strategies.strategy import TRAIN, Phase


@dataclass(frozen=True)
class ClientTask:
    """What is needed to work for clients of one phase: the phase, the objective that a kernel made, the broadcast."""

    phase: Phase
    objective: Objective
    broadcast: Broadcast


def run_client(
    task: ClientTask, ask: Ask, data: ClientData, state: State, rng: Randomness
) -> tuple[Contribution, State]:
    """Do a phase's work for one client; returns the contribution and the state that is current if it is counted.

    Raises:
        ClientWorkError: ``no_examples``, ``update_not_finite``, or ``plan_failed`` where the plan's code raised.
        PlanError: where loss or metrics have the wrong shape.
    """
    began = time.monotonic()
    part = data.train if ask.phase == TRAIN else data.test
    if len(part) == 0:
        raise ClientWorkError("no_examples", f"{ask.client} has no examples for the phase {ask.phase}.")
    torch.default_generator.manual_seed(rng.derive(f"work {ask.phase}"))
    work = task.phase.work(task.objective)
    try:
        finished = _work(work, task.broadcast, data, state, rng)
    except (FoedusError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ClientWorkError(
            "plan_failed", f"The plan's code failed for {ask.client}.", f"{type(error).__name__}: {error}"
        ) from error
    return settle(task.phase, finished, rng, time.monotonic() - began)


def settle(phase: Phase, finished: Finished, rng: Randomness, seconds: float) -> tuple[Contribution, State]:
    """The contribution that finished work makes: its update checked, and through the phase's transform.

    Raises:
        ClientWorkError: ``update_not_finite``.
    """
    for tensors in finished.update.values():
        check_finite(tensors, rng.client)
    update, state = phase.transform.client(finished.state, finished.update, rng.generator("transform"))
    return Contribution(rng.client, update, finished.weights, finished.metrics, seconds), state


def _work(work: LocalWork, broadcast: Broadcast, data: ClientData, state: State, rng: Randomness) -> Finished:
    carry = work.init(broadcast, state, rng)
    for batch in work.batches(data, state, rng):
        with torch.enable_grad():
            carry, _ = work.step(carry, batch)
    return work.finish(broadcast, carry, data)
