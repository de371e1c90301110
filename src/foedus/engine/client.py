"""The one way that client work is run, in every kernel's truth and on every node."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from foedus.data.dataset import ClientData, Examples
from foedus.domain.checkpoint import When
from foedus.domain.errors import ClientWorkError, FoedusError
from foedus.domain.rng import Randomness, seed_all
from foedus.domain.round import Ask, Broadcast, Contribution, Metrics
from foedus.domain.tree import Parts, State, Tensors
from foedus.local.checkpointers import POST, PRE, Look
from foedus.local.checks import GLOBAL, LOCAL, Logged
from foedus.local.evaluate import measure
from foedus.local.objective import check_finite
from foedus.local.work import Batch, Carry, LocalWork, Measured, Rows
from foedus.strategies.strategy import TRAIN, VALIDATION, Phase

TIMED = ("before", "work", "after")
"""What a client's seconds are spent on: measuring the received model, the work itself, measuring what came of it."""

NO_MEMORY, NO_GPU = "DefaultCPUAllocator: can't allocate memory", "CUDA error: "
"""What torch says in a RuntimeError where the processor's memory is at its end, or a GPU does not work any more."""


log = logging.getLogger(__name__)


def unheard(logged: Logged) -> None:
    """Nobody listens."""


def unseen(when: When, model: Tensors) -> None:
    """Nobody looks."""


@dataclass(frozen=True)
class ClientTask:
    """What is needed to work for clients of one phase: the phase, the objective that a kernel made, the broadcast.

    ``watch`` is told how the work goes, every ``log_interval`` steps of the phase's checks and at the last one;
    ``look`` sees the model as it came down, and as training left it.
    """

    phase: Phase
    objective: Measured
    broadcast: Broadcast
    watch: Callable[[Logged], None] = unheard
    look: Look = unseen


@dataclass(frozen=True)
class Worked:
    """A client's work, done: the update, its weights, metrics as means over the rows worked on, and the next state.

    ``timings``: seconds of its steps, by name.
    """

    update: Parts
    weights: Mapping[str, float]
    metrics: Metrics
    state: State
    timings: Mapping[str, float] = field(default_factory=dict)


def run_client(
    task: ClientTask, ask: Ask, data: ClientData, state: State, rng: Randomness
) -> tuple[Contribution, State]:
    """Do a phase's work for one client; returns the contribution and the state that is current if it is counted.

    Where the phase asks for it, the model is measured on the client's test part as it came, and as training left it.

    Raises:
        ClientWorkError: ``no_examples``, ``update_not_finite``, ``out_of_memory``, ``gpu_lost``, or ``plan_failed``
            where the plan's code raised anything else.
        PlanError: where loss or metrics have the wrong shape.
    """
    began = time.monotonic()
    data = data.shuffled(rng) if task.phase.checks.shuffle else data
    part = part_of(ask.phase, data)
    if len(part) == 0:
        raise ClientWorkError("no_examples", f"{ask.client} has no examples for the phase {ask.phase}.")
    try:
        worked = _work(task, part, data.test, state, rng)
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
    if isinstance(error, RuntimeError) and str(error).startswith(NO_GPU):
        fix = "Begin another process: in this one no work on the GPU succeeds any more."
        return ClientWorkError("gpu_lost", f"The GPU was lost in the work of {client}.", words, fix)
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
    return Contribution(rng.client, update, worked.weights, worked.metrics, seconds, worked.timings), state


def _work(task: ClientTask, part: Examples, tests: Examples, state: State, rng: Randomness) -> Worked:
    phase, marks = task.phase, [time.monotonic()]
    seed_all(rng.derive(f"work {phase.name}"))
    work = phase.work(task.objective)
    carry = work.init(task.broadcast, state, rng)
    task.look(POST, carry["model"])
    before = _checked(task, carry, tests, GLOBAL) if phase.checks.before else {}
    if before:  # what measuring drew must not change what training draws
        seed_all(rng.derive(f"work {phase.name}"))
    marks.append(time.monotonic())
    carry, rows = _stepped(task, work, carry, part, work.order(len(part), state, rng))
    marks.append(time.monotonic())
    if phase.name == TRAIN:
        task.look(PRE, carry["model"])
    after = _checked(task, carry, tests, LOCAL) if phase.checks.after else {}
    marks.append(time.monotonic())
    finished, account = work.finish(task.broadcast, carry), work.account(len(part), state)
    metrics = {name: float(total) / rows for name, total in finished.metrics.items()}
    spent = {name: end - begin for name, begin, end in zip(TIMED, marks, marks[1:], strict=False)}
    kept = State(finished.state, account.data)
    weights = {**account.weights, **finished.weights}
    return Worked(finished.update, weights, {**metrics, **before, **after}, kept, spent)


def _stepped(
    task: ClientTask, work: LocalWork, carry: Carry, part: Examples, order: Sequence[Rows]
) -> tuple[Carry, int]:
    """The carry after every step, and how many rows were worked on."""
    rows, every = 0, task.phase.checks.log_interval
    for number, index in enumerate(order, 1):
        chosen = part.take(index)
        rows += len(chosen)
        with torch.enable_grad():
            carry, said = work.step(carry, Batch(chosen.inputs, chosen.targets))
        if task.watch is not unheard and (number % every == 0 or number == len(order)):
            told = {name: float(value) for name, value in said.items()}
            task.watch(Logged(task.phase.name, number, len(order), told))
    return carry, rows


def _checked(task: ClientTask, carry: Carry, tests: Examples, tag: str) -> Metrics:
    """Loss and metrics of the model that is worked on, tagged; nothing where there is nothing to measure on."""
    if not len(tests):
        return {}
    try:
        found = measure(task.objective, carry["model"], tests)
    except (MemoryError, torch.cuda.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # the plan's own; the round does not depend on it
        log.warning("the %s model could not be measured: %s", tag, error)
        return {}
    return {f"{tag}.{name}": value for name, value in found.items()}
