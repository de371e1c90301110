"""Which kernel and which executor run a simulation: what was asked for, what was chosen, and why.

Where nothing was asked for, a few steps are timed on the machine at hand. What was chosen is recorded with the run, and
a run that goes on is computed in the same way: kernel and recipe decide the bits, the executor does not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from foedus.domain.computing import DEVICES, EXECUTORS, KERNELS
from foedus.domain.errors import ClientWorkError, ConfigError, PlanError
from foedus.domain.machine import cores
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast, PhaseOrder
from foedus.domain.table import nearest
from foedus.domain.tree import State, placed, size_in_bytes
from foedus.engine.executors import Executor, InlineExecutor
from foedus.engine.graph import GraphKernel
from foedus.engine.kernels import ClientSource, EagerKernel, Kernel, PhaseWork
from foedus.engine.precision import exact
from foedus.engine.prepare import Prepared
from foedus.engine.proof import Case, prove
from foedus.engine.ray_extra import ray_executor
from foedus.engine.recipe import recipe_of
from foedus.engine.saving import check_saving, saving_of
from foedus.engine.workers import WorkersExecutor, available
from foedus.local.kinds import Plan
from foedus.local.objective import EagerObjective
from foedus.local.own import OwnPlan
from foedus.local.work import Batch
from foedus.schedules.named import contributions
from foedus.strategies.strategy import Done, phases_of

GRAPH_SECONDS = 1.5
"""Less work than this in a whole run, of one core with kernel ``eager``, does not pay for tracing a step."""

WORKERS_SECONDS = 1.0
"""Less work than this in a whole run does not pay for starting processes."""

STEP_SECONDS = 2e-4
"""A guess at a local step, where timing one in this process would rule out forking it."""

INHERITED = 10_000
"""Of more clients than this none is prepared before the workers are forked; each worker prepares its own."""

SAMPLED = 16
"""Clients that are looked at before round 1."""


@dataclass(frozen=True)
class Engine:
    """What was asked for. ``workers`` is the number of processes; none means one per core.

    ``recipe`` is that of a run that goes on, or is run once more, for kernel ``graph`` (:attr:`Choice.recipe`).
    """

    kernel: str = "auto"
    executor: str = "auto"
    workers: int | None = None
    device: str = "cpu"
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why, in words. ``stack``: how many clients the kernel computes together.

    ``recipe`` is all that kernel ``graph`` needs to compute the same bits again.
    """

    kernel: str
    executor: str
    workers: int
    reason: str
    stack: int = 1
    device: str = "cpu"
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Effort:
    """What a run's training is expected to take: seconds of one core with kernel ``eager``."""

    seconds: float


def choose(engine: Engine, prepared: Prepared, source: ClientSource, clients: Sequence[str]) -> tuple[Executor, Choice]:
    """The executor for a run on the clients of these sorted names, its workers started, and what was chosen.

    Raises:
        ConfigError: ``kernel_unknown``, ``executor_unknown``, ``workers_refused``, ``executor_unavailable``,
            ``device_unknown``, ``device_unavailable``.
    """
    _check("kernel", engine.kernel, KERNELS)
    _check("executor", engine.executor, EXECUTORS)
    _check_device(engine, prepared.plan)
    check_saving(prepared, engine.executor)
    if engine.workers is not None and engine.workers < 1:
        raise ConfigError("workers_refused", f"{engine.workers} workers cannot run anything.", "", "Give 1 or more.")
    own = isinstance(prepared.plan, OwnPlan)
    case = _case(engine, prepared, source, clients)
    wondering = "auto" in (engine.kernel, engine.executor)
    effort = _effort(case, prepared.spec.rounds) if case and wondering else Effort(0.0)
    kernel, of_kernel = _kernel(engine, prepared, case, effort)
    recipe = kernel.recipe if isinstance(kernel, GraphKernel) else None
    how = (recipe.stack, engine.device, recipe.plain()) if recipe else (1, engine.device, {})
    cohort = contributions(prepared.spec.schedule, prepared.spec.cohort, len(clients)) if case or own else 1
    if engine.executor == "ray":
        executor, count = ray_executor(kernel, prepared, source, engine.workers, cohort)
        reason = f"kernel {kernel.name}: {of_kernel}; executor ray: as asked, {count} workers"
        return executor, Choice(kernel.name, "ray", count, reason, *how)
    count, of_executor = _workers(engine, None if own else effort, cohort)
    if count and isinstance(kernel, GraphKernel) and _threads_of_autograd():
        count, of_executor = 0, "proving the graph started threads for an accelerator, which do not survive a fork"
    reason = f"kernel {kernel.name}: {of_kernel}; executor {'workers' if count else 'inline'}: {of_executor}"
    if not count:
        return InlineExecutor(kernel, source, engine.device), Choice(kernel.name, "inline", 1, reason, *how)
    return _started(kernel, prepared, source, clients, count), Choice(kernel.name, "workers", count, reason, *how)


def _check_device(engine: Engine, plan: Plan) -> None:
    _check("device", engine.device, DEVICES)
    if engine.device == "cpu":
        return
    if isinstance(plan, OwnPlan):
        raise ConfigError(
            "device_unavailable",
            f"A {plan.depth} plan is not computed on the device `{engine.device}`.",
            "It does its own work, and takes what devices it finds.",
            "Leave --device out.",
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            "device_unavailable",
            f"PyTorch finds no device `{engine.device}` here.",
            "There is none, or this build of PyTorch cannot use it.",
            "Leave --device out, or install a build of PyTorch for it.",
        )
    if engine.executor not in ("auto", "inline"):
        raise ConfigError(
            "device_unavailable",
            f"The executor `{engine.executor}` does not share the device `{engine.device}`.",
            "One process feeds it.",
            "Use `--executor inline`, or `auto`.",
        )


def _check(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"{what}_unknown",
            f"There is no {what} `{name}`.{nearest(name, known)}",
            f"There are: {', '.join(known)}.",
            f"Use one of them, or leave --{what} out.",
        )


def _case(engine: Engine, prepared: Prepared, source: ClientSource, clients: Sequence[str]) -> Case | None:
    """The first training phase and the first clients with examples; none where there are none to step for."""
    state = prepared.strategy.init(prepared.model)
    phase = prepared.strategy.phase(state)
    sampled = _sampled(source, clients)
    if isinstance(phase, Done) or not sampled or isinstance(prepared.plan, OwnPlan):
        return None
    broadcast = Broadcast(placed({part: state.tensors[part] for part in phase.broadcast}, engine.device))
    order = PhaseOrder(1, phase.name, sampled)
    work = PhaseWork(order, phase, broadcast, {}, prepared.spec.seed)
    size = contributions(prepared.spec.schedule, prepared.spec.cohort, len(clients))
    return Case(prepared.plan, work, sampled, source, size, engine.workers or cores(), engine.device)


def _sampled(source: ClientSource, clients: Sequence[str]) -> tuple[str, ...]:
    """Which of the first clients have examples. Those for whom the plan fails are named when they are asked.

    Raises:
        PlanError: where it fails for all of them.
    """
    found, failures = list[str](), list[ClientWorkError]()
    for client in clients[:SAMPLED]:
        try:
            found += [client] if len(source(client).train) else []
        except ClientWorkError as error:
            failures.append(error)
    if failures and len(failures) == len(clients[:SAMPLED]):
        raise PlanError(failures[0].code, failures[0].what, failures[0].why, failures[0].fix) from failures[0]
    return tuple(found)


def _effort(case: Case, rounds: int) -> Effort:
    """Count the steps of the first clients, and time a few of the first one's."""
    local = case.work.phase.work(EagerObjective(case.plan, case.work.seed, case.device))
    rngs = [Randomness(case.work.seed, 1, client) for client in case.clients]
    parts = [case.source(client).train for client in case.clients]
    orders = [local.order(len(part), State(), rng) for part, rng in zip(parts, rngs, strict=True)]
    total = round(rounds * case.cohort * sum(map(len, orders)) / len(orders))
    if _threads_of_autograd():
        return Effort(total * STEP_SECONDS)
    try:
        carry = local.init(case.work.broadcast, State(), rngs[0])
        times = []
        with torch.enable_grad():
            for rows in itertools.islice(itertools.cycle(orders[0][:4]), 5):
                began = time.perf_counter()
                chosen = parts[0].take(rows)
                carry, _ = local.step(carry, Batch(chosen.inputs, chosen.targets))
                times.append(time.perf_counter() - began)
    except Exception:  # the plan's own code; the run will say what is wrong with it
        return Effort(0.0)
    return Effort(total * min(times))


def _threads_of_autograd() -> bool:
    """Whether differentiating in this process starts threads: one for each accelerator."""
    return torch.cuda.is_available()


def _kernel(engine: Engine, prepared: Prepared, case: Case | None, effort: Effort) -> tuple[Kernel, str]:
    eager = EagerKernel(prepared.plan, prepared.spec.seed, engine.device, saving_of(prepared))
    if isinstance(prepared.plan, OwnPlan):
        return eager, f"a {prepared.plan.depth} plan does its own work"
    if engine.kernel == "eager":
        return eager, "as asked"
    if prepared.spec.checkpointer:
        return eager, "checkpointers look at each client's model"
    if case is not None and case.work.phase.eager:
        return eager, case.work.phase.eager
    if case is None:
        return eager, "no client has examples to try a graph on"
    if engine.recipe:
        recipe, note = recipe_of(engine.recipe), "as the run was begun"
        if recipe.other and not exact():
            recipe, note = replace(recipe, other=0), f"{note}, but oneDNN's matrix products are not float32's here"
        return GraphKernel(prepared.plan, prepared.spec.seed, recipe, engine.device), note
    if engine.kernel == "auto" and effort.seconds < GRAPH_SECONDS:
        return eager, f"about {effort.seconds:.1f} s of work do not pay for tracing a step"
    graph, why_not = prove(case)
    if graph is None:
        return eager, f"the plan cannot run as a graph: {why_not}"
    return graph, f"as asked, {graph.recipe.words()}" if engine.kernel == "graph" else graph.recipe.words()


def _workers(engine: Engine, effort: Effort | None, cohort: int) -> tuple[int, str]:
    """The number of worker processes, 0 for none, and the reason; ``effort``: none where nothing could be timed."""
    count = engine.workers or min(cores(), cohort)
    if engine.executor == "inline":
        return 0, "as asked"
    if engine.device != "cpu":
        return 0, f"one process feeds the device {engine.device}"
    if engine.executor == "workers":
        return count, f"as asked, {count} processes"
    if not available():
        return 0, "this platform does not offer fork"
    if count < 2:
        return 0, "one process is enough"
    if effort is None:
        return 0, "such work is not timed; ask for workers where it is long"
    if effort.seconds < WORKERS_SECONDS:
        return 0, f"about {effort.seconds:.1f} s of work do not pay for starting processes"
    return count, f"{count} processes"


def _started(
    kernel: Kernel, prepared: Prepared, source: ClientSource, clients: Sequence[str], count: int
) -> WorkersExecutor:
    """Workers that inherit the phases and, where a run asks most of few clients, every client's prepared data."""
    spec = prepared.spec
    asked = spec.rounds * (spec.cohort.size or len(clients))
    for client in clients if asked >= len(clients) <= INHERITED else ():
        with suppress(ClientWorkError):
            source(client)
    strategy = prepared.strategy
    phases = phases_of(strategy, strategy.init(prepared.model), prepared.spec.rounds)  # the last round has all of them
    executor = WorkersExecutor(kernel, source, count, phases)
    executor.start(2 * size_in_bytes(prepared.model))
    return executor
