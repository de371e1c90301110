"""Whether kernel ``graph`` may stand in for kernel ``eager``: it proves itself on the run's own data, or says why not.

First the rule that padding stands on: the loss of a batch is the mean of its rows' losses, and rows do not mix. Then
the first steps of the first clients, through the traced graph, against kernel ``eager``. Both before round 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from foedus.data.dataset import ClientData, Examples, Values
from foedus.domain.errors import ClientWorkError
from foedus.domain.garbage import uncollected
from foedus.domain.rng import beside, seed_all
from foedus.domain.round import Ask
from foedus.domain.tree import Tensors, flatten, same
from foedus.engine.client import ClientTask, run_client
from foedus.engine.form import UntraceableError
from foedus.engine.graph import GraphKernel
from foedus.engine.kernels import ClientSource, PhaseWork
from foedus.engine.laid import Member, abridged
from foedus.engine.precision import SMALLEST, crossover, seconds, turning
from foedus.engine.recipe import WIDTHS, Recipe
from foedus.engine.stacked import row_of
from foedus.engine.tracing import FunctionalObjective, Step, first_line
from foedus.local.objective import EagerObjective
from foedus.local.plan import TrainingPlan
from foedus.local.work import Batch, LocalWork, Objective, WorkBuilder

GRADIENT = 2e-5
"""How far a gradient may be from kernel ``eager``'s, as a share of its length."""

STEPS = 1e-5
"""How far the way of a few steps may be from kernel ``eager``'s, as a share of its length …"""

ROUNDING = 1e-6
"""… on top of this share of the length of the parameters."""

LOSS = 1e-4
STACK_BYTES = 6 << 20
"""A stack larger than this leaves the cache of a core, and gains nothing."""

GAIN = 1.25
"""How many times as fast a later candidate has to be to be taken: timings are noisy, and the first is likeliest."""

TRIALS = 3
LARGEST = 50
"""Clients in a stack, at most; beyond, nothing more is gained."""


@dataclass(frozen=True)
class Case:
    """What the proof is made on: a plan, a training phase of round 1, the first clients (some with examples)."""

    plan: TrainingPlan
    work: PhaseWork
    clients: tuple[str, ...]
    source: ClientSource
    cohort: int
    cores: int = 1
    device: str = "cpu"


def prove(case: Case) -> tuple[GraphKernel | None, str]:
    """The kernel, its graphs traced; or none, and the reason as a clause."""
    with uncollected():  # PyTorch loads its tracer in here
        return _proven(case)


def _proven(case: Case) -> tuple[GraphKernel | None, str]:
    try:
        rows = _rows(case)
        reason = _moves(case, rows) or _rows_mix(case, rows)
        kernel, reason = _tried(case, Recipe(1, not reason, rows))
        if reason and kernel.recipe.padded:
            kernel, reason = _tried(case, Recipe(1, False, rows))
    except UntraceableError as error:
        reason = str(error)
    except Exception as error:  # the plan's code may fail in any way under a tracer, and then runs as it is
        reason = f"it failed on the first clients ({first_line(error)})"
    return (None, reason) if reason else (kernel, "")


def _tried(case: Case, recipe: Recipe) -> tuple[GraphKernel, str]:
    """The best kernel that follows ``recipe``; and the reason where it does not go where kernel ``eager`` goes."""
    members = _members(case)
    longest = max(members, key=lambda member: len(member.order))
    kernel = GraphKernel(case.plan, case.work.seed, recipe, case.device)
    step, example, carried = kernel.examine(case.work, longest)
    if recipe.padded:
        factored = _factored(step, example, len(longest.order))
        inputs = {at: column for at, column in step.inputs.items() if at in factored}
        recipe = replace(recipe, factored=factored, inputs=inputs, still=_still(step, example, carried))
    recipe = replace(recipe, kept=step.kept, other=crossover() if case.device == "cpu" else 0)
    for way in [*_turned(case, recipe, step), recipe]:
        with suppress(Exception) if way.turned else nullcontext():  # a view of what is turned may not be possible
            fast = _fastest(case, _ways(case, way, step, example[:carried]))
            reason = _differs(case, fast)
            if not reason:
                break
    return fast, reason


def _turned(case: Case, recipe: Recipe, step: Step) -> list[Recipe]:
    """The recipe with products turned, where that is for this step and faster on this machine."""
    turned = turning(recipe.other) if step.turnable >= SMALLEST and case.device == "cpu" else 0
    return [replace(recipe, turned=turned)] if 0 < turned <= step.turnable else []


def _members(case: Case) -> list[Member]:
    """The sampled clients."""
    kernel = GraphKernel(case.plan, case.work.seed, Recipe(1, False, 1), case.device)
    found = [kernel.member(case.work, client, case.source) for client in case.clients]
    return [member for member in found if member]


def _factored(step: Step, example: Sequence[Tensor], steps: int) -> dict[int, float]:
    """The weights whose factors take less room than they, by the rows of the longest client."""
    rows = steps * len(example[-1])
    return {at: a for at, a in step.factorable.items() if rows * sum(example[at].shape) < example[at].numel()}


def _still(step: Step, example: Sequence[Tensor], carried: int) -> bool:
    """Whether a step on rows of no weight leaves a carry as it is, after one that moved it."""
    carry, batch, mask = example[:carried], example[carried:-1], example[-1]
    with torch.no_grad():
        moved = [tensor.clone() for tensor in step.run(*map(Tensor.clone, carry), *batch, torch.ones_like(mask))]
        after = step.run(*map(Tensor.clone, moved), *batch, torch.zeros_like(mask))
    return all(torch.equal(one, two) for one, two in zip(moved, after, strict=True))


def _ways(case: Case, recipe: Recipe, step: Step, carry: Sequence[Tensor]) -> list[Recipe]:
    """Ways to follow the recipe that are worth a trial, the likeliest first.

    Stacks of as many clients as a core's cache holds, and one client alone. On a processor grouped convolutions gain
    nothing, and the other layout may gain much.
    """
    if step.convolves and case.device == "cpu":
        alone = replace(recipe, block=_block(case, 1))
        return [alone, replace(alone, channels_last=True)]
    return [replace(recipe, stack=size, block=_block(case, size)) for size in _stacks(case, carry, recipe)]


def _stacks(case: Case, carry: Sequence[Tensor], recipe: Recipe) -> list[int]:
    alone = {*recipe.kept, *recipe.factored}
    weight = sum(tensor.nbytes for at, tensor in enumerate(carry) if at not in alone)
    even = min(-(-case.cohort // case.cores), LARGEST)
    fitting = [w for w in (even, -(-even // 2), *WIDTHS) if w <= even and w * weight <= STACK_BYTES]
    return [*fitting[:1], 1] if fitting[:1] != [1] else [1]


def _fastest(case: Case, ways: Sequence[Recipe]) -> GraphKernel:
    """The kernel that takes least time a step, for a few steps of the first clients."""
    best, *others = [GraphKernel(case.plan, case.work.seed, way, case.device) for way in ways]
    for kernel in others:
        with suppress(Exception):  # what the first can, another may not, as with a view of what is laid out otherwise
            if _faster(case, kernel, best) and not _differs(case, kernel):
                best = kernel
    return best


def _block(case: Case, stack: int) -> int:
    """Clients that one worker folds: two even shares for each core, or one where two cannot be even."""
    even = case.cohort % (2 * case.cores) == 0
    return max(stack, min(-(-case.cohort // (case.cores * (2 if even else 1))), LARGEST))


def _faster(case: Case, kernel: GraphKernel, other: GraphKernel) -> bool:
    """Whether a step in one of its stacks takes so much less time than in one of the other's; they take turns."""
    some = [replace(member, order=abridged(member.order)) for member in _members(case)]
    stack, others = [list(itertools.islice(itertools.cycle(some), one.recipe.stack)) for one in (kernel, other)]
    ways = partial(kernel.train, case.work, stack), partial(other.train, case.work, others)
    seconds(*ways, trials=1)  # to warm up
    took, other_took = seconds(*ways, trials=TRIALS)
    return took / _steps(stack) * GAIN < other_took / _steps(others)


def _steps(members: Sequence[Member]) -> int:
    return sum(len(member.order) for member in members)


def _rows(case: Case) -> int:
    """The rows of a full batch: those of the largest batch of the client with the most examples."""
    return max(max(_members(case), key=lambda member: member.rows).sizes)


def _moves(case: Case, rows: int) -> str:
    """Whether a step writes to buffers or draws at random; the reason why batches are not padded then."""
    model = case.work.broadcast.tensors["model"]
    eager = EagerObjective(case.plan, case.work.seed, case.device)
    mixed = _mixed([case.source(client) for client in case.clients], rows)
    found = []
    for seed in (1, 2):
        seed_all(seed)
        placed, outside = eager.place(model), beside()
        gradients, _ = eager.gradient(placed, _batch(mixed.take(slice(rows))))
        if beside() != outside:
            raise UntraceableError("its step draws from Python's or NumPy's random numbers, which a graph draws once")
        found.append(gradients)
        if any(not torch.equal(placed[name], model[name]) for name in eager.buffers):
            return "its step writes to buffers, as batch normalization does"
    return "" if same(*found) else "its step draws random numbers, as dropout does"


def _rows_mix(case: Case, rows: int) -> str:
    """Whether padding changes loss or gradients, on rows of many clients; the reason where it does."""
    ours_of = FunctionalObjective(case.plan, case.work.seed, case.device)
    model = case.work.broadcast.tensors["model"]
    eager = EagerObjective(case.plan, case.work.seed, case.device)
    mixed = _mixed([case.source(client) for client in case.clients], rows)
    for real in sorted({rows, max(rows // 2, 1)}):
        gradients, loss = eager.gradient(eager.place(model), _batch(mixed.take(slice(real))))
        index = torch.tensor([at if at < real else 0 for at in range(rows)])
        mask = (torch.arange(rows) < real).float().to(case.device)
        padded = replace(_batch(mixed.take(index)), mask=mask)
        ours, our_loss = ours_of.gradient(ours_of.place(model), padded)
        near = bool((our_loss - loss).abs() <= LOSS * (1 + loss.abs()))
        if not near or not _distance(ours, gradients) <= GRADIENT * _length(gradients):
            return "its loss is not the mean of the losses of single rows (the loss or a layer looks across the batch)"
    return ""


def _mixed(clients: list[ClientData], rows: int) -> Examples:
    """``rows`` rows, and more, in turn from each of the clients, so that one batch has many labels."""
    clients = [client for client in clients if len(client.train)]
    each = -(-2 * rows // len(clients))
    taken = [client.train.take(torch.linspace(0, len(client.train) - 1, each).long()) for client in clients]
    order = torch.arange(each * len(taken)).view(len(taken), each).T.reshape(-1)
    pairs = [(part.inputs, part.targets) for part in taken]
    joined: tuple[Values, Values] = pytree.tree_map(lambda *tensors: torch.cat(tensors)[order], *pairs)
    return Examples(*joined)


def _batch(examples: Examples) -> Batch:
    return Batch(examples.inputs, examples.targets)


def _differs(case: Case, kernel: GraphKernel) -> str:
    """Where the kernel does not go where kernel ``eager`` goes, whole stacks or pieces: the reason."""
    widths = sorted({kernel.recipe.stack, min(kernel.recipe.widths)})
    return next((why for width in widths if (why := _same_steps(case, kernel, width))), "")


def _same_steps(case: Case, kernel: GraphKernel, width: int) -> str:
    """Whether a stack of ``width`` clients goes where kernel ``eager`` takes them; the reason where it does not.

    The clients with most rows: others may have no full batch, and short ones may run by no graph.
    """
    longest = sorted(_members(case), key=lambda member: -member.rows)[:width]
    members = [replace(member, order=abridged(member.order)) for member in longest]
    done = kernel.train(case.work, members)
    if done is None:
        return ""
    phase = replace(case.work.phase, work=_abridged_work(case.work))
    task = ClientTask(phase, EagerObjective(case.plan, case.work.seed, case.device), case.work.broadcast)
    scale = ROUNDING * _length(case.work.broadcast.tensors["model"])
    for client, at in done.rows.items():
        member, ask = done.members[at], Ask(client, case.work.order.round, phase.name)
        try:
            truth, _ = run_client(task, ask, case.source(client), member.state, member.rng)
        except ClientWorkError:
            continue
        ours, theirs = flatten(row_of(done.update, at)), flatten(truth.update)
        if not _distance(ours, theirs) <= STEPS * _length(theirs) + scale:
            return "its first steps differ from those of kernel eager"
        if not _near(done.accounts[at].metrics, truth.metrics) or done.accounts[at].weights != truth.weights:
            return "its metrics differ from those of kernel eager"
    return ""


def _abridged_work(work: PhaseWork) -> WorkBuilder:
    def build(objective: Objective) -> LocalWork:
        local = work.phase.work(objective)
        return replace(local, order=lambda examples, state, rng: abridged(local.order(examples, state, rng)))

    return build


def _distance(first: Tensors, second: Tensors) -> float:
    return _length({name: tensor.double() - second[name].double() for name, tensor in first.items()})


def _length(tensors: Tensors) -> float:
    return float(sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5)


def _near(ours: Mapping[str, float], theirs: Mapping[str, float]) -> bool:
    return ours.keys() == theirs.keys() and all(abs(ours[n] - v) <= LOSS * (1 + abs(v)) for n, v in theirs.items())
