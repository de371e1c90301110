"""Kernel ``graph``: clients in stacks, each local step one traced graph over a stack.

A stack is a run of clients of one fold block, longest first, so that it narrows as clients finish; a client's work is
finished with its own weights the moment its batches end, and others' steps do not move it. Ragged batches are padded
with a real row that has no weight. Whatever the graph cannot do falls to kernel ``eager``, which is the truth.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foedus.data.dataset import ClientData
from foedus.domain.errors import ClientWorkError, FoedusError
from foedus.domain.rng import Randomness
from foedus.domain.round import Contribution
from foedus.domain.tree import Parts, State, Tensors
from foedus.engine.client import settle
from foedus.engine.kernels import ClientSource, EagerKernel, Outcome, PhaseWork
from foedus.engine.tracing import Form, RowObjective, Traced, split, trace
from foedus.local.plan import TrainingPlan
from foedus.local.work import Batch, Carry, LocalWork, WorkBuilder
from foedus.strategies.strategy import TRAIN

WIDTHS = (10, 5, 2, 1)
"""How many clients a graph may be traced for; a stack narrows from one to the next."""

log = logging.getLogger(__name__)
Choose = Callable[[Iterator[Batch]], Iterator[Batch]]


@dataclass
class _Member:
    """One client of a stack."""

    rng: Randomness
    data: ClientData
    batches: Iterator[Batch]
    carry: Carry
    batch: Batch | None = None


@dataclass
class _Stack:
    """Members, longest first; the carry's tensors, ``[width, ...]`` each; and what the members' carries are made of."""

    members: list[_Member]
    form: Form
    tensors: list[Tensor]
    others: list[list[object]]

    @property
    def width(self) -> int:
        return len(self.tensors[0])


class GraphKernel:
    """Stacks of at most ``stack`` clients, on batches padded to at least ``rows``."""

    name = "graph"

    def __init__(self, plan: TrainingPlan, seed: int, stack: int = 1, rows: int = 1) -> None:
        self.stack, self._rows = stack, rows
        self._eager = EagerKernel(plan, seed)
        self.objective = RowObjective(plan, seed)
        self._works: dict[WorkBuilder, LocalWork] = {}
        self._traced: dict[object, Traced] = {}
        self._memory: dict[int, Tensors] = {}

    def run(self, work: PhaseWork, clients: tuple[str, ...], source: ClientSource) -> Iterator[Outcome]:
        """Train in stacks; anything but training, and whatever fails here, is run by kernel ``eager``."""
        if work.phase.name != TRAIN:
            yield from self._eager.run(work, clients, source)
            return
        for part in self.parts(work, clients):
            try:
                found = self.run_stack(work, part, source)
            except FoedusError:
                found = {}
            except Exception as error:
                log.warning("kernel graph left %s to kernel eager: %s", ", ".join(part), error)
                found = {}
            for client in part:
                if client in found:
                    yield found.pop(client)
                else:
                    yield from self._eager.run(work, (client,), source)

    def parts(self, work: PhaseWork, block: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The block's stacks: in training as many clients as a stack holds, otherwise client by client."""
        size = self.stack if work.phase.name == TRAIN else 1
        return [block[at : at + size] for at in range(0, len(block), size)]

    def run_stack(
        self, work: PhaseWork, clients: tuple[str, ...], source: ClientSource, chosen: Choose = iter
    ) -> dict[str, Outcome]:
        """Outcomes of the clients that have examples and whose updates are finite. ``chosen`` may leave batches out."""
        began = time.monotonic()
        local = self._work(work.phase.work)
        stack = self._gather(local, work, clients, source, chosen)
        outcomes: dict[str, Outcome] = {}
        with torch.no_grad():
            while stack is not None and any(member.batch for member in stack.members):
                self._step(local, stack)
                for at, member in enumerate(stack.members):
                    if member.batch is not None:
                        member.batch = next(member.batches, None)
                        if member.batch is None and (made := self._finish(local, work, stack, at)):
                            outcomes[member.rng.client] = Outcome(member.rng.client, *made)
                _narrow(stack)
        seconds = (time.monotonic() - began) / max(len(outcomes), 1)
        return {client: _timed(outcome, seconds) for client, outcome in outcomes.items()}

    def traced(self, local: LocalWork, form: Form, example: Sequence[Tensor]) -> Traced:
        """The traced step for tensors like these."""
        key = (local.step, form, *((tuple(t.shape), t.dtype) for t in example))
        if key not in self._traced:
            self._traced[key] = trace(local, form, example)
        return self._traced[key]

    @property
    def convolves(self) -> bool:
        """Whether a step that was traced has a convolution in it."""
        return any(traced.convolves for traced in self._traced.values())

    def _work(self, builder: WorkBuilder) -> LocalWork:
        if builder not in self._works:
            self._works[builder] = builder(self.objective)
        return self._works[builder]

    def _gather(
        self, local: LocalWork, work: PhaseWork, clients: tuple[str, ...], source: ClientSource, chosen: Choose
    ) -> _Stack | None:
        ready = [data for data in map(source, clients) if len(data.train)]
        if not ready:
            return None
        ready.sort(key=lambda data: -len(data.train))
        width = min(width for width in WIDTHS if width >= len(ready))
        rows = self._rows_for(width, work.broadcast.tensors["model"])
        members = []
        for at, data in enumerate(ready):
            rng, state = Randomness(work.seed, work.order.round, data.name), work.states.get(data.name, State())
            self.objective.rows = {name: tensor[at] for name, tensor in rows.items()}
            carry = local.init(work.broadcast, state, rng)
            self.objective.rows = None
            batches = chosen(local.batches(data, state, rng))
            members.append(_Member(rng, data, batches, carry, next(batches, None)))
        split_carries = [split(member.carry) for member in members]
        form = split_carries[0][0]
        if any(other != form for other, _, _ in split_carries):
            raise ValueError("the clients' carries are not made of the same")
        columns = zip(*(tensors for _, tensors, _ in split_carries), strict=True)
        tensors = [_stacked(column, width, tuple(rows.values())) for column in columns]
        return _Stack(members, form, tensors, [others for _, _, others in split_carries])

    def _rows_for(self, width: int, model: Tensors) -> Tensors:
        """Memory for ``width`` models, the same for every stack of that width."""
        if width not in self._memory:
            self._memory[width] = {name: t.new_zeros((width, *t.shape)) for name, t in model.items()}
        return self._memory[width]

    def _step(self, local: LocalWork, stack: _Stack) -> None:
        rows = max([self._rows, *(len(member.batch.targets) for member in stack.members if member.batch)])
        batch = _padded([member.batch for member in stack.members[: stack.width]], stack.width, rows)
        if stack.width > 1:
            example = [*stack.tensors, *batch]
            stack.tensors = self.traced(local, stack.form, example).run(*example)
        else:
            example = [tensor[0] for tensor in (*stack.tensors, *batch)]
            stack.tensors = [tensor[None] for tensor in self.traced(local, stack.form, example).run(*example)]

    def _finish(self, local: LocalWork, work: PhaseWork, stack: _Stack, at: int) -> tuple[Contribution, State] | None:
        """What a member's work came to, in memory of its own; none where it is not finite."""
        member = stack.members[at]
        carry = stack.form.join([tensor[at] for tensor in stack.tensors], stack.others[at])
        finished = local.finish(work.broadcast, carry, member.data)
        shared = {tensor.untyped_storage().data_ptr() for tensor in stack.tensors}
        state = State(_own(finished.state.tensors, shared), finished.state.data)
        own = replace(finished, update=_own(finished.update, shared), state=state)
        try:
            return settle(work.phase, own, member.rng, 0.0)
        except ClientWorkError:
            return None


def _stacked(column: Sequence[Tensor], width: int, rows: Sequence[Tensor]) -> Tensor:
    """The members' tensors as one ``[width, ...]``: the rows that they were placed in, or a copy."""
    for whole in rows:
        if all(
            tensor.data_ptr() == whole[at].data_ptr() and tensor.shape == whole.shape[1:]
            for at, tensor in enumerate(column)
        ):
            return whole
    return torch.stack([*column, *[column[0]] * (width - len(column))])


def _padded(batches: Sequence[Batch | None], width: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs ``[width, rows, ...]``, targets ``[width, rows, ...]`` and mask ``[width, rows]``.

    Where there is no batch, or it is short, real rows stand in, and the mask is 0: zeros might give infinities, and
    nothing times infinity is not nothing.
    """
    real = [batch for batch in batches if batch is not None]
    if len({(batch.inputs.dtype, batch.targets.dtype) for batch in real}) > 1:
        raise ValueError("the clients' examples differ in dtype")
    if len(real) == width and all(len(batch.targets) == rows for batch in real):
        inputs, targets = torch.stack([batch.inputs for batch in real]), torch.stack([batch.targets for batch in real])
        return inputs, targets, torch.ones(width, rows)
    inputs = real[0].inputs.new_empty((width, rows, *real[0].inputs.shape[1:]))
    targets = real[0].targets.new_empty((width, rows, *real[0].targets.shape[1:]))
    mask = torch.zeros(width, rows)
    for at in range(width):
        batch = batches[at] if at < len(batches) else None
        filler = batch or real[0]
        n = len(filler.targets)
        for into, rows_of in ((inputs, filler.inputs), (targets, filler.targets)):
            into[at, :n] = rows_of
            into[at, n:] = rows_of[0]
        if batch is not None:
            mask[at, :n] = 1
    return inputs, targets, mask


def _narrow(stack: _Stack) -> None:
    """Leave out the members at the end that are finished, as far as the widths allow."""
    active = max((at + 1 for at, member in enumerate(stack.members) if member.batch), default=0)
    width = min(width for width in WIDTHS if width >= active)
    if active and width < stack.width:
        stack.tensors = [tensor[:width] for tensor in stack.tensors]


def _timed(outcome: Outcome, seconds: float) -> Outcome:
    """The outcome with its share of the stack's time."""
    assert outcome.contribution is not None
    return replace(outcome, contribution=replace(outcome.contribution, seconds=seconds))


def _own(parts: Parts, shared: set[int]) -> Parts:
    """The same parts, with what lies in the stack copied out of it."""
    return {
        part: {name: t.clone() if t.untyped_storage().data_ptr() in shared else t for name, t in tensors.items()}
        for part, tensors in parts.items()
    }
