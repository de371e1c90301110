"""Executor ``ray``: fold blocks on the actors of a Ray cluster, for runs that outgrow one machine.

The broadcast goes into the object store once per phase; each fold block comes back as one partial sum. They are merged
in the blocks' order, so the result depends neither on the number of actors nor on who was first. An actor that is lost
is replaced, and its work is done again elsewhere; work that ends several actors is a failure of its clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ray

from foedus.domain.codec import encode
from foedus.domain.errors import ConfigError
from foedus.domain.machine import cores
from foedus.domain.tree import State, size_in_bytes
from foedus.engine.clients import Clients
from foedus.engine.dealing import Dealt, Item, Numbered, in_order, items_of, parts_of, unfolded
from foedus.engine.graph import GraphKernel
from foedus.engine.kernels import BlockResult, ClientSource, Kernel, Outcome, PhaseWork
from foedus.engine.packing import Reply, pack_state, unpack
from foedus.engine.prepare import Prepared
from foedus.engine.ray_actor import Down, Job, Setup, Site, decoded
from foedus.engine.ray_actors import Actors
from foedus.engine.ray_cluster import Cluster, connect


def begin(
    kernel: Kernel, prepared: Prepared, source: ClientSource, workers: int | None, cohort: int
) -> tuple[RayExecutor, int]:
    """The executor on the cluster that there is, one of its actors begun, and the number of its actors.

    Raises:
        ConfigError: ``workers_refused``, ``clients_stay``, ``plan_stays``, ``ray_address_refused``,
            ``ray_versions_differ``, and what is wrong with the run on an actor's machine.
        UnreachableError: ``ray_unreachable``.
        RunFailedError: ``ray_not_started``, ``ray_no_worker``.
    """
    if not isinstance(source, Clients):
        raise ConfigError("clients_stay", "These clients exist in this process alone.", "", "Use another executor.")
    if not prepared.bundle.files:
        raise ConfigError(
            "plan_stays",
            "A plan that was made in Python cannot go to Ray's workers.",
            "They import a plan from its files, under its digest.",
            "Put the plan in a file that run.toml names, or use another executor.",
        )
    recipe = kernel.recipe if isinstance(kernel, GraphKernel) else None
    federation = None if source.federation.described else source.federation
    where = (prepared.spec, prepared.base.resolve(), prepared.bundle)
    setup = Setup(*where, federation, recipe, prepared.alignment)
    cluster = connect(workers or min(cores(), cohort), size_in_bytes(prepared.model))
    try:
        count = workers or max(1, min(cluster.cpus, cohort))
        if count > cluster.cpus:
            raise ConfigError(
                "workers_refused",
                f"{count} workers do not fit on the Ray cluster, which has {cluster.cpus} CPUs.",
                "Each worker has a CPU of its own.",
                "Ask for fewer, or leave --workers out.",
            )
        executor = RayExecutor(cluster, kernel, setup, count)
        executor.start()
    except BaseException:
        cluster.close()
        raise
    return executor, count


class RayExecutor:
    """Runs fold blocks on ``count`` actors of a cluster, which it closes."""

    name = "ray"

    def __init__(self, cluster: Cluster, kernel: Kernel, setup: Setup, count: int) -> None:
        self._cluster, self._kernel, self._setup, self._count = cluster, kernel, setup, count
        self._actors: Actors | None = None
        self._phases = 0

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the actors are that have begun."""
        return self._actors.sites if self._actors else ()

    def start(self) -> Actors:
        """Have actors, one of which has begun.

        Raises:
            FoedusError: as :meth:`Actors.hear`.
        """
        if self._actors is None:
            self._actors = Actors(self._setup, self._count)
        while not self._actors.sites:
            self._actors.hear()
        return self._actors

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """The blocks' results in the blocks' order, each as soon as those before it are there."""
        items = items_of(self._kernel, work, blocks, self._count)
        yield from in_order(work, self._results(work, items))

    def outcomes(self, work: PhaseWork, clients: tuple[str, ...]) -> Iterator[Outcome]:
        """What became of each client's work, when all is done."""
        yield from unfolded(self._results(work, parts_of(self._kernel, work, clients)))

    def _results(self, work: PhaseWork, items: Sequence[Item]) -> Iterator[Numbered]:
        """Blocks by their number, as they are finished; actors that were left at work are ended."""
        actors = self.start()
        self._phases += 1
        down = Down(self._phases, ray.put(encode(State(work.broadcast.tensors))), work.broadcast.options)
        try:
            yield from _Round(actors, work, down, Dealt(work, items)).results()
        finally:
            if actors.busy:
                self._end()

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        try:
            self._end()
        finally:
            self._cluster.close()

    def _end(self) -> None:
        if self._actors:
            self._actors.end()
        self._actors = None


class _Round:
    """One phase on its way."""

    def __init__(self, actors: Actors, work: PhaseWork, down: Down, dealt: Dealt) -> None:
        self._actors, self._work, self._down, self._dealt = actors, work, down, dealt

    def results(self) -> Iterator[Numbered]:
        """Blocks by their number, as they are finished."""
        while self._dealt.left:
            for member in self._actors.idle[: len(self._dealt.waiting)]:
                item = self._dealt.waiting.popleft()
                self._actors.give(member, item, self._job(item))
            heard = self._actors.hear()
            if heard is not None:
                yield from self._settle(*heard)

    def _job(self, item: Item) -> Job:
        known = self._work.states
        states = {client: pack_state(known[client]) for client in item.clients if client in known}
        return Job(self._work.order, self._down, states, item.clients, item.fold)

    def _settle(self, item: Item, reply: Reply | None) -> Iterator[Numbered]:
        if reply is None:
            return self._dealt.lost(item)
        return self._dealt.back(item, unpack(reply, decoded))
