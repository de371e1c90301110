"""The one way that client work is run, in every kernel's truth and on every node."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from foedus.data.dataset import ClientData, Examples
from foedus.domain.errors import ClientWorkError, FoedusError
from foedus.domain.rng import Randomness
from foedus.domain.round import Ask, Broadcast, Contribution, Metrics
from foedus.domain.tree import Parts, State
from foedus.local.objective import check_finite
from foedus.local.work import Batch, LocalWork, Objective
from foedus.strategies.strategy import TRAIN, VALIDATION, Phase

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""What torch says in a plain RuntimeError where the processor's memory is at its end."""


@dataclass(frozen=True)
class ClientTask:
    """What is needed to work for clients of one phase: the phase, the objective that a kernel made, the broadcast."""

    phase: Phase
    objective: Objective
    broadcast: Broadcast


@dataclass(frozen=True)
class Worked:
    """A client's work, done: the update, its weights, metrics as means over the rows worked on, and the next state."""

    update: Parts
    weights: Mapping[str, float]
    metrics: Metrics
    state: State


def run_client(
    task: ClientTask, ask: Ask, data: ClientData, state: State, rng: Randomness
) -> tuple[Contribution, State]:
    """Do a phase's work for one client; returns the contribution and the state that is current if it is counted.

    Raises:
        ClientWorkError: ``no_examples``, ``update_not_finite``, ``out_of_memory``, or ``plan_failed`` where the plan's
            code raised anything else.
        PlanError: where loss or metrics have the wrong shape.
    """
    began = time.monotonic()
    part = part_of(ask.phase, data)
    if len(part) == 0:
        raise ClientWorkError("no_examples", f"{ask.client} has no examples for the phase {ask.phase}.")
    torch.default_generator.manual_seed(rng.derive(f"work {ask.phase}"))
    work = task.phase.work(task.objective)
    try:
        worked = _work(work, task.broadcast, part, state, rng)
        return settle(task.phase, worked, rng, time.monotonic() - began)
    except (FoedusError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _failed(ask.client, error) from error


def _failed(client: str, error: Exception) -> ClientWorkError:
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or NO_MEMORY in str(error):
        fix = "Use smaller batches, a smaller model, or fewer workers."
        return ClientWorkError("out_of_memory", f"The work of {client} ran out of memory.", words, fix)
    return ClientWorkError("plan_failed", f"The plan's code failed for {client}.", words)


def part_of(phase: str, data: ClientData) -> Examples:
    """The part of a client's data that a phase works on."""
    return {TRAIN: data.train, VALIDATION: data.validation}.get(phase, data.test)


def settle(phase: Phase, worked: Worked, rng: Randomness, seconds: float) -> tuple[Contribution, State]:
    """The contribution that finished work makes: its update checked, and through the phase's transform.

    Raises:
        ClientWorkError: ``update_not_finite``.
    """
    for tensors in worked.update.values():
        check_finite(tensors, rng.client)
    update, state = phase.transform.client(worked.state, worked.update, rng)
    return Contribution(rng.client, update, worked.weights, worked.metrics, seconds), state


def _work(work: LocalWork, broadcast: Broadcast, part: Examples, state: State, rng: Randomness) -> Worked:
    rows = 0
    carry = work.init(broadcast, state, rng)
    for index in work.order(len(part), state, rng):
        chosen = part.take(index)
        rows += len(chosen)
        with torch.enable_grad():
            carry, _ = work.step(carry, Batch(chosen.inputs, chosen.targets))
    finished, account = work.finish(broadcast, carry), work.account(len(part), state)
    metrics = {name: float(total) / rows for name, total in finished.metrics.items()}
    return Worked(finished.update, account.weights, metrics, State(finished.state, account.data))
