"""Kernel ``graph``: clients in stacks, each local step one traced graph over a stack of clients.

Whatever the graph cannot do falls to kernel ``eager``, which is the truth: other phases than training, a client that
fails or diverges, a plan that :mod:`foedus.engine.proof` did not let through.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from foedus.domain.errors import ClientWorkError, FoedusError
from foedus.domain.rng import Randomness
from foedus.domain.round import Receipt
from foedus.domain.tree import Parts, State
from foedus.engine.client import Worked, settle
from foedus.engine.kernels import BlockResult, ClientSource, EagerKernel, Outcome, PhaseWork, fold_outcomes
from foedus.engine.stack import Member, Stack, gather
from foedus.engine.tracing import FunctionalObjective, Program, Shape, Step, first_line, split, trace_finish, trace_step
from foedus.local.plan import TrainingPlan
from foedus.local.work import Batch, LocalWork, Rows, WorkBuilder
from foedus.strategies.strategy import TRAIN
from foedus.transforms.transform import IDENTITY

WIDTHS = (10, 5, 2, 1)
"""How many clients a graph may be traced for; what is left of a stack is run in pieces of these."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a plan runs as a graph: so many clients in a stack, batches ``padded`` or whole, of ``rows`` rows.

    ``kept`` are the places in a carry that no step writes to; where they are the same for all, they are not stacked.
    """

    stack: int
    padded: bool
    rows: int
    kept: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Done:
    """What a stack came to: per client a row of ``update``, weights, metrics and next state."""

    members: Sequence[Member]
    update: Parts
    accounts: Sequence[Worked]
    failed: frozenset[int] = frozenset()

    @property
    def rows(self) -> dict[str, int]:
        """Each client's row; those that failed have none."""
        return {member.rng.client: at for at, member in enumerate(self.members) if at not in self.failed}


class GraphKernel:
    """Stacks as ``recipe`` says."""

    name = "graph"

    def __init__(self, plan: TrainingPlan, seed: int, recipe: Recipe) -> None:
        self.recipe = recipe
        self.objective = FunctionalObjective(plan, seed)
        self._eager = EagerKernel(plan, seed)
        self._works: dict[WorkBuilder, LocalWork] = {}
        self._steps: dict[object, Step] = {}
        self._finishes: dict[object, Program] = {}
        self._memory: dict[int, Tensor] = {}
        self._said: set[str] = set()

    def run(self, work: PhaseWork, clients: tuple[str, ...], source: ClientSource) -> Iterator[Outcome]:
        """Train in stacks; anything but training, and whatever fails here, is run by kernel ``eager``."""
        for part in self.parts(work, clients):
            done, seconds = self._try(work, part, source)
            rows = done.rows if done else {}
            for client in part:
                outcome = self._outcome(work, done, rows[client], seconds) if done and client in rows else None
                if outcome is None:
                    yield from self._eager.run(work, (client,), source)
                else:
                    yield outcome

    def fold(self, work: PhaseWork, block: tuple[str, ...], source: ClientSource) -> BlockResult:
        """Fold stack by stack; with a transform, and where the sum is not finite, client by client."""
        if work.phase.name != TRAIN or work.phase.transform is not IDENTITY:
            return fold_outcomes(work.phase, self.run(work, block, source))
        result = BlockResult(work.phase.aggregator.zero(), (), {})
        for part in self.parts(work, block):
            result = self._fold_part(work, part, source, result)
        finite = all(_is_finite(tensor) for tensors in result.sums.tensors.values() for tensor in tensors.values())
        return result if finite else fold_outcomes(work.phase, self.run(work, block, source))

    def parts(self, work: PhaseWork, block: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The block's stacks: in training as many clients as a stack holds, otherwise client by client."""
        size = self.recipe.stack if work.phase.name == TRAIN else 1
        return [block[at : at + size] for at in range(0, len(block), size)]

    def train(self, work: PhaseWork, members: Sequence[Member]) -> Done | None:
        """What the members come to, longest first; none where there are no members."""
        if not members:
            return None
        local = self.work(work.phase.work)
        members = sorted(members, key=lambda member: (-len(member.order), -member.rows))
        with torch.no_grad():
            carries = [split(local.init(work.broadcast, member.state, member.rng)) for member in members]
            form = carries[0][0]
            if any(other != form for other, _ in carries):
                raise ValueError("the clients' carries are not made of the same")
            tensors = [tensors for _, tensors in carries]
            shared = frozenset(at for at in self.recipe.kept if all(each[at] is tensors[0][at] for each in tensors))
            stack = gather(members, form, tensors, shared, self._room)
            for step in range(stack.steps):
                self._step(work.phase.work, local, stack, step)
        return self._finish(work, local, stack)

    def member(self, work: PhaseWork, client: str, source: ClientSource) -> Member | None:
        """A client with examples, ready to be stacked; of any other kernel eager says what is wrong."""
        try:
            part = source(client).train
        except ClientWorkError:
            return None
        if not len(part):
            return None
        rng, state = Randomness(work.seed, work.order.round, client), work.states.get(client, State())
        return Member(rng, part, state, self.work(work.phase.work).order(len(part), state, rng))

    def work(self, builder: WorkBuilder) -> LocalWork:
        """The strategy's local work on this kernel's objective."""
        if builder not in self._works:
            self._works[builder] = builder(self.objective)
        return self._works[builder]

    def weight(self, work: PhaseWork, client: str, source: ClientSource) -> list[Tensor]:
        """What one client's carry adds to a stack."""
        member = self.member(work, client, source)
        if member is None:
            return []
        _, tensors = split(self.work(work.phase.work).init(work.broadcast, member.state, member.rng))
        return [tensor for at, tensor in enumerate(tensors) if at not in self.recipe.kept]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that were traced so far."""
        return tuple(self._steps.values())

    def _try(self, work: PhaseWork, part: tuple[str, ...], source: ClientSource) -> tuple[Done | None, float]:
        """What a part came to in a stack, if it is to be and could be one; and seconds per client."""
        if work.phase.name != TRAIN:
            return None, 0.0
        began = time.monotonic()
        members = [member for client in part if (member := self.member(work, client, source))]
        try:
            done = self.train(work, members)
        except (FoedusError, KeyboardInterrupt):
            raise
        except Exception as error:  # the plan's code, under a transform; kernel eager says what is wrong with it
            self._say_once(part, first_line(error))
            done = None
        return done, (time.monotonic() - began) / max(len(members), 1)

    def _say_once(self, part: tuple[str, ...], reason: str) -> None:
        if reason not in self._said:
            log.warning("kernel graph left %s to kernel eager: %s", ", ".join(part), reason)
        self._said.add(reason)

    def _fold_part(
        self, work: PhaseWork, part: tuple[str, ...], source: ClientSource, into: BlockResult
    ) -> BlockResult:
        done, seconds = self._try(work, part, source)
        rows = done.rows if done else {}
        sums, receipts, states = into.sums, list(into.receipts), dict(into.states)
        add, merge = work.phase.aggregator.add, work.phase.aggregator.merge
        for client in part:
            if done is None or client not in rows:
                alone = self._eager.fold(work, (client,), source)
                sums = merge(sums, alone.sums)
                receipts.extend(alone.receipts)
                states.update(alone.states)
                continue
            at, account = rows[client], done.accounts[rows[client]]
            update = row_of(done.update, at)
            sums = add(sums, update, account.weights)
            size = sum(tensor.nbytes for tensors in update.values() for tensor in tensors.values())
            receipts.append(Receipt(client, account.weights, account.metrics, seconds=seconds, size=size))
            states[client] = account.state
        return BlockResult(sums, tuple(receipts), states)

    def _outcome(self, work: PhaseWork, done: Done, at: int, seconds: float) -> Outcome | None:
        """One client's outcome, in memory of its own; none where its update is not finite."""
        update = {part: {n: t.clone() for n, t in tensors.items()} for part, tensors in row_of(done.update, at).items()}
        worked = replace(done.accounts[at], update=update)
        try:
            contribution, state = settle(work.phase, worked, done.members[at].rng, seconds)
        except ClientWorkError:
            return None
        return Outcome(contribution.client, contribution, state)

    def _step(self, builder: WorkBuilder, local: LocalWork, stack: Stack, step: int) -> None:
        padded = self.recipe.padded
        runs = [(0, stack.active(step), stack.rows)] if padded else list(stack.runs(step))
        for first, last, rows in runs:
            if not padded and rows < self.recipe.rows:
                for member in range(first, last):
                    if member not in stack.failed:
                        self._step_alone(local, stack, step, member)
                continue
            while first < last:
                width = next(width for width in WIDTHS if width <= last - first)
                self._step_together(builder, local, stack, (step, first, first + width, rows))
                first += width

    def _step_together(
        self, builder: WorkBuilder, local: LocalWork, stack: Stack, where: tuple[int, int, int, int]
    ) -> None:
        step, first, last, rows = where
        carry = stack.carry(first, last)
        batch = stack.batch(step, first, last, rows)
        example = [*carry, *(batch if self.recipe.padded else batch[:2])]
        program = self.program(builder, local, stack, example, last - first > 1)
        drawn = [_drawn(stack, first, last, draw) for draw in program.draws]
        with torch.inference_mode():
            after = program.run(*example, *drawn)
        if program.rebound:
            places = [at for at in range(len(carry)) if at not in stack.shared] if last - first > 1 else None
            for at in program.rebound:
                carry[at].copy_(after[places.index(at) if places else at])

    def program(
        self, builder: WorkBuilder, local: LocalWork, stack: Stack, example: Sequence[Tensor], stacked: bool
    ) -> Step:
        """The traced step for tensors like these."""
        shared = stack.shared if stacked else frozenset[int]()
        key = (builder, stack.form, shared, *((tensor.shape, tensor.dtype) for tensor in example))
        if key not in self._steps:
            self._steps[key] = trace_step(local, stack.form, Shape(self.recipe.padded, stacked, shared), example)
        return self._steps[key]

    def _step_alone(self, local: LocalWork, stack: Stack, step: int, member: int) -> None:
        """One client's short batch, which no graph was traced for."""
        carry = stack.carry(member, member + 1)
        inputs, targets, _ = stack.batch(step, member, member + 1, stack.sizes[member][step])
        before, generator = torch.default_generator.get_state(), stack.generator(member)
        torch.default_generator.set_state(generator.get_state())
        self.objective.direct = True
        try:
            after, _ = local.step(stack.form.join(carry), Batch(inputs, targets))
        except Exception:  # the plan's code; kernel eager says what is wrong with it
            stack.failed.add(member)
            return
        finally:
            self.objective.direct = False
            generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(before)
        for at, (old, new) in enumerate(zip(carry, split(after)[1], strict=True)):
            if new is not old and at not in stack.shared:
                old.copy_(new)

    def _finish(self, work: PhaseWork, local: LocalWork, stack: Stack) -> Done:
        count = len(stack.members)
        key = (work.phase.work, stack.form, stack.shared, count)
        if key not in self._finishes:
            self._finishes[key] = trace_finish(local, stack.form, stack.shared, work.broadcast, stack.leaves)
        with torch.no_grad():
            down = pytree.tree_leaves(work.broadcast.tensors)
            update, sums, states = self._finishes[key](*down, *stack.leaves)
        totals = {name: total.tolist() for name, total in sums.items()}
        accounts = []
        for at, member in enumerate(stack.members):
            account, rows = local.account(len(member.part), member.state), member.rows
            metrics = {name: total[at] / rows for name, total in totals.items()}
            state = State(_own(row_of(states, at)), account.data)
            accounts.append(Worked({}, account.weights, metrics, state))
        return Done(stack.members, update, accounts, frozenset(stack.failed))

    def _room(self, at: int, clients: int, like: Tensor) -> Tensor:
        """Memory for one tensor of the carry, the same for every stack."""
        held = self._memory.get(at)
        if held is None or len(held) < clients or held.shape[1:] != like.shape or held.dtype != like.dtype:
            held = self._memory[at] = torch.empty((clients, *like.shape), dtype=like.dtype)
        return held[:clients]


def abridged(order: Sequence[Rows]) -> Sequence[Rows]:
    """The first two batches, and the last."""
    return [*order[:2], *order[-1:]] if len(order) > 3 else order


def _drawn(stack: Stack, first: int, last: int, draw: Any) -> Tensor:
    made = [draw.make(stack.generator(member)) for member in range(first, last)]
    return made[0] if last - first == 1 else torch.stack(made)


def row_of(parts: Parts, at: int) -> dict[str, dict[str, Tensor]]:
    """One client's tensors of a stack."""
    return {part: {name: tensor[at] for name, tensor in tensors.items()} for part, tensors in parts.items()}


def _own(parts: Parts) -> Parts:
    return {part: {name: tensor.clone() for name, tensor in tensors.items()} for part, tensors in parts.items()}


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.dtype.is_floating_point or math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())
