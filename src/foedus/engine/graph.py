"""Kernel ``graph``: clients in stacks, each local step one traced graph over a stack of clients.

Whatever the graph cannot do falls to kernel ``eager``, which is the truth: other phases than training, a client that
fails or diverges, a plan that :mod:`foedus.engine.proof` did not let through.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from foedus.domain.errors import ClientWorkError, FoedusError
from foedus.domain.rng import Randomness
from foedus.domain.round import Receipt
from foedus.domain.tree import State
from foedus.engine.client import Worked, settle
from foedus.engine.form import split
from foedus.engine.kernels import BlockResult, ClientSource, EagerKernel, Outcome, PhaseWork, fold_outcomes
from foedus.engine.laid import Member, Memory, lay
from foedus.engine.precision import DEFAULT, products
from foedus.engine.recipe import Recipe
from foedus.engine.stack import Stack, stack_of
from foedus.engine.stacked import Done, is_finite, own, row_of, summed
from foedus.engine.tracing import Finish, FunctionalObjective, Shape, Step, first_line, trace_finish, trace_step
from foedus.local.plan import TrainingPlan
from foedus.local.work import Batch, LocalWork, WorkBuilder
from foedus.strategies.strategy import TRAIN
from foedus.transforms.transform import IDENTITY

log = logging.getLogger(__name__)


class GraphKernel:
    """Stacks as ``recipe`` says."""

    name = "graph"

    def __init__(self, plan: TrainingPlan, seed: int, recipe: Recipe, device: str = "cpu") -> None:
        self.recipe = recipe
        self.objective = FunctionalObjective(plan, seed, device)
        self._eager = EagerKernel(plan, seed, device)
        self._works: dict[WorkBuilder, LocalWork] = {}
        self._steps: dict[object, Step] = {}
        self._finishes: dict[object, Finish] = {}
        self._memory = Memory()
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
        """Fold stack by stack; client by client where the aggregator or a transform asks for it."""
        if self.folds_outcomes(work):
            return fold_outcomes(work.phase, self.run(work, block, source))
        first, *others = [self._fold_part(work, part, source) for part in self.parts(work, block)]
        sums, receipts, states = first.sums, list(first.receipts), dict(first.states)
        for part in others:
            sums = work.phase.aggregator.merge(sums, part.sums)
            receipts.extend(part.receipts)
            states.update(part.states)
        return BlockResult(sums, tuple(receipts), states)

    def blocks(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
        """Cut anew where stacks are folded, ``recipe.block`` clients to a block."""
        if self.folds_outcomes(work):
            return blocks
        clients = [client for block in blocks for client in block]
        return [tuple(clients[at : at + self.recipe.block]) for at in range(0, len(clients), self.recipe.block)]

    def folds_outcomes(self, work: PhaseWork) -> bool:
        """Outside training, and where a transform or the aggregator has to see each contribution."""
        phase = work.phase
        return phase.name != TRAIN or phase.transform is not IDENTITY or not phase.aggregator.linear

    def parts(self, work: PhaseWork, block: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The block's stacks: in training as many clients as a stack holds, otherwise client by client."""
        size = self.recipe.stack if work.phase.name == TRAIN else 1
        return [block[at : at + size] for at in range(0, len(block), size)]

    def train(self, work: PhaseWork, members: Sequence[Member]) -> Done | None:
        """What the members come to, longest first; none where there are no members."""
        if not members:
            return None
        local = self.work(work.phase.work)
        with torch.no_grad(), products(DEFAULT):
            stack = self.stacked(work, members)
            for step in range(stack.laid.steps):
                self._step(work.phase.work, local, stack, step)
            return self._finish(work, local, stack)

    def stacked(self, work: PhaseWork, members: Sequence[Member]) -> Stack:
        """The members as a stack, longest first."""
        local = self.work(work.phase.work)
        laid = lay(members, self.recipe, self._memory)
        carries = [split(local.init(work.broadcast, member.state, member.rng)) for member in laid.members]
        form = carries[0][0]
        if any(other != form for other, _ in carries):
            raise ValueError("the clients' carries are not made of the same")
        tensors = [tensors for _, tensors in carries]
        shared = frozenset(at for at in self.recipe.kept if all(each[at] is tensors[0][at] for each in tensors))
        return stack_of(laid, form, tensors, shared, self.recipe, self._memory)

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

    def examine(self, work: PhaseWork, member: Member) -> tuple[Step, list[Tensor], int]:
        """The step of one client, traced; the tensors that it was traced with; how many of them are its carry."""
        with torch.no_grad():
            stack = self.stacked(work, [member])
            rows = stack.laid.rows if self.recipe.padded else stack.laid.sizes[0][0]
            example = [*stack.carry(0, 1), *stack.laid.batch(0, 0, 1, rows)]
            step = self._program(work.phase.work, self.work(work.phase.work), stack, example, False)
            return step, example, len(stack.leaves)

    @property
    def traced(self) -> int:
        """How many steps were traced so far."""
        return len(self._steps)

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

    def _fold_part(self, work: PhaseWork, part: tuple[str, ...], source: ClientSource) -> BlockResult:
        """One stack, folded; client by client where someone diverged."""
        done, seconds = self._try(work, part, source)
        aggregator, rows = work.phase.aggregator, done.rows if done else {}
        sums = summed(done, work.phase.schema) if done else aggregator.zero()
        if not all(is_finite(tensor) for tensors in sums.tensors.values() for tensor in tensors.values()):
            self._memory.clear()
            return fold_outcomes(work.phase, self.run(work, part, source))
        receipts, states, size = list[Receipt](), dict[str, State](), done.size if done else 0
        for client in part:
            if done and client in rows:
                account = done.accounts[rows[client]]
                receipts.append(Receipt(client, account.weights, account.metrics, seconds=seconds, size=size))
                states[client] = account.state
            else:
                alone = self._eager.fold(work, (client,), source)
                sums = aggregator.merge(sums, alone.sums)
                receipts.extend(alone.receipts)
                states.update(alone.states)
        return BlockResult(sums, tuple(receipts), states)

    def _outcome(self, work: PhaseWork, done: Done, at: int, seconds: float) -> Outcome | None:
        """One client's outcome, in memory of its own; none where its update is not finite."""
        worked = replace(done.accounts[at], update=own(row_of(done.update, at)))
        try:
            contribution, state = settle(work.phase, worked, done.members[at].rng, seconds)
        except ClientWorkError:
            return None
        return Outcome(contribution.client, contribution, state)

    def _step(self, builder: WorkBuilder, local: LocalWork, stack: Stack, step: int) -> None:
        padded = self.recipe.padded
        laid = stack.laid
        runs = [(0, laid.active(step), laid.rows)] if padded else list(laid.runs(step))
        for first, last, rows in runs:
            if not padded and rows < self.recipe.rows:
                for member in range(first, last):
                    if member not in stack.failed:
                        self._step_alone(local, stack, step, member)
                continue
            for width in self.recipe.pieces(last - first):
                self._step_together(builder, local, stack, (step, first, first + width, rows))
                first += width

    def _step_together(
        self, builder: WorkBuilder, local: LocalWork, stack: Stack, where: tuple[int, int, int, int]
    ) -> None:
        step, first, last, rows = where
        carry = stack.carry(first, last)
        example = [*carry, *stack.laid.batch(step, first, last, rows)]
        if (first, last) not in stack.programs:
            stack.programs[first, last] = self._program(builder, local, stack, example, last - first > 1)
        program = stack.programs[first, last]
        drawn = [stack.drawn(draw, first, last) for draw in program.draws]
        before, now = stack.factors(step, first, last)
        with torch.inference_mode():
            after = program.run(*example, *drawn, *before)
            for at, place in zip(program.rebound, program.returned, strict=True):
                carry[at].copy_(after[place])
            for into, made in zip(now, after[len(after) - len(now) :], strict=True):
                into.copy_(made)

    def _program(
        self, builder: WorkBuilder, local: LocalWork, stack: Stack, example: Sequence[Tensor], stacked: bool
    ) -> Step:
        """The traced step for tensors like these."""
        shared = stack.shared if stacked else frozenset[int]()
        key = (builder, stack.form, shared, *((tensor.shape, tensor.dtype) for tensor in example))
        if key not in self._steps:
            self._steps[key] = trace_step(
                local, stack.form, Shape(stack.laid.form, stacked, shared, self.recipe), example
            )
        return self._steps[key]

    def _step_alone(self, local: LocalWork, stack: Stack, step: int, member: int) -> None:
        """One client's short batch, which no graph was traced for."""
        carry = stack.carry(member, member + 1)
        laid = stack.laid
        batch = laid.form.join(laid.batch(step, member, member + 1, laid.sizes[member][step]))
        before, generator = torch.default_generator.get_state(), stack.generator(member)
        torch.default_generator.set_state(generator.get_state())
        self.objective.direct = True
        try:
            after, _ = local.step(stack.form.join(carry), Batch(**batch))
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
        key = (work.phase.work, stack.form, stack.shared, stack.laid.clients)
        if key not in self._finishes:
            shape = Shape(stack.laid.form, True, stack.shared, self.recipe)
            self._finishes[key] = trace_finish(local, stack.form, shape, work.broadcast, stack.leaves)
        finish = self._finishes[key]
        update, sums, states = finish.run(*pytree.tree_leaves(work.broadcast.tensors), *stack.leaves)
        for (part, name), at in finish.differences.items():
            update[part][name] = stack.factored[at].product(-self.recipe.factored[at])
        totals = {name: total.tolist() for name, total in sums.items()}
        accounts = []
        for at, member in enumerate(stack.laid.members):
            account, rows = local.account(len(member.part), member.state), member.rows
            metrics = {name: total[at] / rows for name, total in totals.items()}
            state = State(own(row_of(states, at)), account.data)
            accounts.append(Worked({}, account.weights, metrics, state))
        return Done(stack.laid.members, stack.laid.clients, update, accounts, frozenset(stack.failed))
