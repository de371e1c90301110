"""Whom a phase asks: so many clients, or a fraction of them, uniformly without replacement (McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from foedus.domain.errors import QuorumError
from foedus.domain.run import CohortTable

Selector = Callable[[Sequence[str], torch.Generator], tuple[str, ...]]
"""``(the sorted names of the population, generator) → the names chosen, sorted``."""

SHUFFLED = 10_000
"""A population up to this size is shuffled whole; of a larger one only as many are drawn as are asked."""


def uniform(cohort: CohortTable) -> Selector:
    """``size`` clients, or ``max(1, round(fraction · K))`` of K.

    Raises (when called):
        QuorumError: ``population_too_small``.

    >>> uniform(CohortTable(size=2))(("a", "b", "c"), torch.Generator().manual_seed(0))
    ('a', 'c')
    """

    def select(population: Sequence[str], generator: torch.Generator) -> tuple[str, ...]:
        size = cohort.size or max(1, round((cohort.fraction or 0.0) * len(population)))
        if size > len(population):
            raise QuorumError(
                "population_too_small",
                f"The cohort has {size} clients and the population {len(population)}.",
                "A round cannot ask more clients than there are.",
                "Lower `cohort.size`, or bring more clients.",
            )
        return tuple(population[at] for at in sorted(_draw(len(population), size, generator)))

    return select


def _draw(count: int, size: int, generator: torch.Generator) -> list[int]:
    """``size`` places out of ``count``, each set of them as likely; takes time by ``size`` where ``count`` is large."""
    if count <= SHUFFLED or 2 * size > count:
        return torch.randperm(count, generator=generator)[:size].tolist()
    chosen: dict[int, None] = {}
    while len(chosen) < size:
        drawn = torch.randint(count, (size,), generator=generator).tolist()
        chosen.update(dict.fromkeys(drawn))
    return list(chosen)[:size]
