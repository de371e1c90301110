"""The actors of a run on a Ray cluster, as its driver sees them: made, given work, heard, replaced and ended."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from foedus.domain.errors import ConfigError, FoedusError, RunFailedError
from foedus.engine.dealing import TRIES, Item
from foedus.engine.packing import Reply
from foedus.engine.ray_actor import Actor, Job, Setup, Site, site_of_this_process

WAIT_SECONDS = 180.0
"""How long to wait for a first actor to begin, and for another one where none is left."""

log = logging.getLogger(__name__)


@dataclass
class Member:
    """An actor; ``answer`` refers to what it does now: to begin (no ``site`` yet), the work in ``item``, or nothing."""

    actor: Any
    answer: Any
    site: Site | None = None
    item: Item | None = None


class Actors:
    """``count`` actors, each with one CPU, on whatever machines Ray finds for them."""

    def __init__(self, setup: Setup, count: int) -> None:
        self._remote: Any = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Actor)
        self._setup = ray.put(setup)
        self._here = site_of_this_process()
        self._lost_at_once = 0
        self._members: list[Member] = []
        for _ in range(count):
            self._add()

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the actors are that have begun."""
        return tuple(member.site for member in self._members if member.site)

    @property
    def idle(self) -> list[Member]:
        """The actors that could be given work."""
        return [member for member in self._members if member.site and member.item is None]

    @property
    def busy(self) -> bool:
        """Whether an actor works for clients."""
        return any(member.item for member in self._members)

    def give(self, member: Member, item: Item, job: Job) -> None:
        """Give an idle actor work."""
        member.item, member.answer = item, member.actor.work.remote(job)

    def hear(self) -> tuple[Item, Reply | None] | None:
        """Wait for one actor: its work and the answer, none for an answer where it was lost; or none, it has begun.

        Raises:
            FoedusError: what an actor found wrong with the run on its machine.
            ConfigError: ``ray_versions_differ``.
            RunFailedError: ``ray_no_worker``, ``worker_failed``.
        """
        waiting = {member.answer: member for member in self._members if member.item or not member.site}
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=None if self.sites else WAIT_SECONDS)
        if not ready:
            raise _no_worker(f"None has begun within {WAIT_SECONDS:.0f} seconds; the cluster may be busy.")
        member = waiting[ready[0]]
        try:
            answer = ray.get(ready[0])
        except RayTaskError as error:
            raise RunFailedError("worker_failed", "A Ray worker failed.", str(error)[-2000:]) from error
        except RayError as error:
            return self._bury(member, error)
        if isinstance(answer, FoedusError) and member.item is None:
            raise answer
        if member.item is None:
            check_site(self._here, answer)
            member.site = answer
            return None
        item, member.item = member.item, None
        return item, answer

    def end(self) -> None:
        """End every actor."""
        for member in self._members:
            ray.kill(member.actor)
        self._members = []

    def _add(self) -> None:
        actor = self._remote.remote()
        self._members.append(Member(actor, actor.begin.remote(self._setup)))

    def _bury(self, member: Member, error: RayError) -> tuple[Item, None] | None:
        """Replace a lost actor; an actor that never began may be lost a few times."""
        self._members.remove(member)
        ray.kill(member.actor)  # it may be out of reach only, and would keep its CPU
        if member.site is None:
            self._lost_at_once += 1
            if self._lost_at_once >= TRIES * (1 + len(self._members)):
                raise _no_worker(str(error)[-2000:]) from error
        log.warning("a Ray worker%s was lost: %s", f" on {member.site.machine}" if member.site else "", error)
        self._add()
        return (member.item, None) if member.item else None


def check_site(here: Site, there: Site) -> None:
    """Refuse an actor whose versions differ from this process's; warn of another kind of processor.

    Raises:
        ConfigError: ``ray_versions_differ``.
    """
    if (there.foedus, there.torch) != (here.foedus, here.torch):
        raise ConfigError(
            "ray_versions_differ",
            f"{there.machine} has foedus {there.foedus} and torch {there.torch}; here they are {here.foedus} and "
            f"{here.torch}.",
            "The same versions compute the same bits, and understand each other's messages.",
            "Install the same versions on every machine of the cluster.",
        )
    if there.processor != here.processor:
        log.warning(
            "%s computes with %s, this machine with %s: the digest may not be that of one machine",
            there.machine,
            there.processor,
            here.processor,
        )


def _no_worker(why: str) -> RunFailedError:
    return RunFailedError(
        "ray_no_worker",
        "The Ray cluster gives no worker that stays.",
        why,
        "See `ray status`; every machine of the cluster needs foedus[ray] in the Python that Ray runs there.",
    )
