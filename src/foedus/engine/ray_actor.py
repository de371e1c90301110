"""What an actor of executor ``ray`` does: it makes the run anew on its own machine, then works for clients.

No live object crosses: the run as resolved and the plan's bytes do, from which the actor builds plan, phases, kernel
and clients as the simulation's own process did. Trees of tensors travel in foedus' codec, inside Ray's messages.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from foedus import __version__
from foedus.data.align import Alignment
from foedus.data.catalogue import federate
from foedus.data.population import Federation
from foedus.domain.codec import decode, encode
from foedus.domain.errors import FoedusError, RunFailedError
from foedus.domain.plain import Json
from foedus.domain.plan import PlanBundle
from foedus.domain.round import Broadcast, PhaseOrder
from foedus.domain.run import RunSpec
from foedus.domain.tree import Parts, State
from foedus.engine.clients import Clients
from foedus.engine.dealing import done
from foedus.engine.graph import GraphKernel
from foedus.engine.kernels import EagerKernel, Kernel, PhaseWork
from foedus.engine.packing import Folded, PackedState, Reply, Row, answer, pack, unpack_state
from foedus.engine.prepare import prepare_bundle
from foedus.engine.recipe import Recipe
from foedus.local.plan import TrainingPlan
from foedus.strategies.strategy import Phase, phases_of


@dataclass(frozen=True)
class Setup:
    """A run, as an actor makes it anew.

    ``federation`` is none where run.toml describes the data; ``recipe`` is kernel ``graph``'s, none for ``eager``.
    """

    spec: RunSpec
    base: Path
    bundle: PlanBundle
    federation: Federation | None
    recipe: Recipe | None
    alignment: Alignment | None


@dataclass(frozen=True)
class Site:
    """Where an actor is, and what decides its bits."""

    machine: str
    process: int
    foedus: str
    torch: str
    processor: str


@dataclass(frozen=True)
class Down:
    """What a phase sends to every client: ``tensors`` is the object store's reference to the encoded broadcast."""

    number: int
    tensors: Any
    options: Mapping[str, Json]


@dataclass(frozen=True)
class Job:
    """Clients to work for. ``fold``: they are a whole fold block, and only its sum is wanted."""

    order: PhaseOrder
    down: Down
    states: Mapping[str, PackedState]
    clients: tuple[str, ...]
    fold: bool


class Actor:
    """One process with one thread, for the length of a run."""

    def begin(self, setup: Setup) -> Site | FoedusError:
        """Make the run anew; what is wrong with it on this machine is an answer."""
        made = answer(lambda: self._begin(setup))
        if isinstance(made, FoedusError):
            return type(made)(made.code, made.what, f"On {socket.gethostname()}: {made.why or made.code}.", made.fix)
        return made

    def work(self, job: Job) -> Reply:
        """Work for the job's clients."""
        return answer(lambda: self._work(job))

    def _begin(self, setup: Setup) -> Site:
        self._prepared = prepare_bundle(setup.spec, setup.base, setup.bundle, setup.alignment)
        there = setup.federation or federate(setup.spec, setup.base, self._prepared.alignment)
        self._source = Clients(self._prepared, there)
        plan, seed = self._prepared.plan, setup.spec.seed
        self._kernel: Kernel = EagerKernel(plan, seed)
        if setup.recipe and isinstance(plan, TrainingPlan):
            self._kernel = GraphKernel(plan, seed, setup.recipe)
        self._start = self._prepared.strategy.init(self._prepared.model)
        self._broadcast: tuple[int, Parts] = (0, {})
        return site_of_this_process()

    def _work(self, job: Job) -> Folded | tuple[Row, ...]:
        if self._broadcast[0] != job.down.number:
            self._broadcast = (job.down.number, decode(ray.get(job.down.tensors)).tensors)
        broadcast = Broadcast(self._broadcast[1], job.down.options)
        states = {client: unpack_state(state) for client, state in job.states.items()}
        phase = self._phase(job.order)
        work = PhaseWork(job.order, phase, broadcast, states, self._prepared.spec.seed)
        return pack(done(self._kernel, work, job.clients, self._source, fold=job.fold), _encoded)

    def _phase(self, order: PhaseOrder) -> Phase:
        """The phase of that round and name, as this actor's strategy gives it."""
        phases = phases_of(self._prepared.strategy, self._start, order.round)
        found = next((phase for phase in phases if phase.name == order.phase), None)
        if found is None:
            raise RunFailedError("phase_unknown", f"Round {order.round} has no phase `{order.phase}`.")
        return found


def site_of_this_process() -> Site:
    """Where this process is."""
    processor = torch.backends.cpu.get_cpu_capability()
    return Site(socket.gethostname(), os.getpid(), __version__, str(torch.__version__), processor)


def decoded(content: bytes) -> Parts:
    """A tree that an actor sent."""
    return decode(content).tensors


def _encoded(trees: Sequence[Parts]) -> list[bytes]:
    return [encode(State(tree)) for tree in trees]
