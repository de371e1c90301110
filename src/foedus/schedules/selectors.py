"""Whom a phase asks: so many clients, or a fraction of them, uniformly without replacement (McMahan et al. 2017).

Drawers are for schedules that ask again and again: they choose among the clients that are idle.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from foedus.domain.errors import QuorumError
from foedus.domain.facts import NO_FACTS, Facts
from foedus.domain.run import CohortTable, Selecting
from foedus.domain.timing import Drawing

Selector = Callable[[Sequence[str], torch.Generator, Mapping[str, Facts]], tuple[str, ...]]
"""``(the sorted names of the population, generator, facts by client) → the names chosen, sorted``."""


@dataclass(frozen=True)
class Request:
    """What a drawer is asked: ``count`` clients that are not ``busy``; ``after`` is the one that was asked last."""

    count: int
    busy: Collection[str]
    after: str
    generator: torch.Generator


Drawer = Callable[[Sequence[str], Request], tuple[str, ...]]
"""``(the sorted names of the population, request) → the names chosen``, fewer where too few are idle."""

SHUFFLED = 10_000
"""A population up to this size is shuffled whole; of a larger one only as many are drawn as are asked."""


def uniform(cohort: CohortTable) -> Selector:
    """``size`` clients, or ``max(1, round(fraction · K))`` of K; with over-selection so many times more, up to K.

    Raises (when called):
        QuorumError: ``population_too_small``.

    >>> uniform(CohortTable(size=2))(("a", "b", "c"), torch.Generator().manual_seed(0), {})
    ('a', 'c')
    """

    def select(
        population: Sequence[str], generator: torch.Generator, facts: Mapping[str, Facts] = NO_FACTS
    ) -> tuple[str, ...]:
        size = _asked(cohort, len(population))
        return tuple(population[at] for at in sorted(_draw(len(population), size, generator)))

    return select


def fastest(cohort: CohortTable) -> Selector:
    """As many clients as :func:`uniform` asks, those with the highest reported speed; who reported none comes last.

    Clients that are equally fast come in the order of their names, so the same facts give the same cohort.

    Raises (when called):
        QuorumError: ``population_too_small``.

    >>> facts = {"b": Facts(speed=10.0), "c": Facts(speed=30.0)}
    >>> fastest(CohortTable(size=2))(("a", "b", "c"), torch.Generator(), facts)
    ('b', 'c')
    """

    def select(
        population: Sequence[str], generator: torch.Generator, facts: Mapping[str, Facts] = NO_FACTS
    ) -> tuple[str, ...]:
        def slowness(client: str) -> tuple[float, str]:
            known = facts.get(client)
            return (-known.speed if known is not None and known.speed is not None else 0.0), client

        return tuple(sorted(sorted(population, key=slowness)[: _asked(cohort, len(population))]))

    return select


SELECTORS: Mapping[Selecting, Callable[[CohortTable], Selector]] = {"uniform": uniform, "fastest": fastest}


def _asked(cohort: CohortTable, population: int) -> int:
    size = cohort.wanted(population)
    check_size(size, population)
    # 10 · 1.1 is a little more than 11 in floating point, and 11 clients are meant.
    return min(population, math.ceil(round(size * cohort.over_selection, 6)))


def check_size(size: int, count: int) -> None:
    """Refuse a cohort of ``size`` clients out of ``count``.

    Raises:
        QuorumError: ``population_too_small``.
    """
    if size > count:
        raise QuorumError(
            "population_too_small",
            f"The cohort has {size} clients and the population {count}.",
            "A round cannot ask more clients than there are.",
            "Lower `cohort.size`, or bring more clients.",
        )


def random(population: Sequence[str], request: Request) -> tuple[str, ...]:
    """Uniformly among the idle, in the order of names; where nobody is busy, those that :func:`uniform` chooses.

    >>> random(("a", "b", "c"), Request(2, {"c"}, "", torch.Generator().manual_seed(0)))
    ('a', 'b')
    """
    drawn = _draw(len(population), min(len(population), request.count + len(request.busy)), request.generator)
    idle = [name for name in (population[at] for at in drawn) if name not in request.busy]
    return tuple(sorted(idle[: request.count]))


def round_robin(population: Sequence[str], request: Request) -> tuple[str, ...]:
    """The idle that come next after the one asked last, in the order of names, and around; in that order.

    >>> round_robin(("a", "b", "c"), Request(2, {"c"}, "b", torch.Generator()))
    ('a', 'b')
    """
    start, chosen = bisect_right(population, request.after), list[str]()
    for step in range(len(population)):
        name = population[(start + step) % len(population)]
        if name not in request.busy:
            chosen.append(name)
        if len(chosen) == request.count:
            break
    return tuple(chosen)


DRAWERS: Mapping[Drawing, Drawer] = {"random": random, "round_robin": round_robin}


def _draw(count: int, size: int, generator: torch.Generator) -> list[int]:
    """``size`` places out of ``count``, each set of them as likely; takes time by ``size`` where ``count`` is large."""
    if count <= SHUFFLED or 2 * size > count:
        return torch.randperm(count, generator=generator)[:size].tolist()
    chosen: dict[int, None] = {}
    while len(chosen) < size:
        drawn = torch.randint(count, (size,), generator=generator).tolist()
        chosen.update(dict.fromkeys(drawn))
    return list(chosen)[:size]
