"""Whom a phase asks: so many clients, or a fraction of them, uniformly without replacement (McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from foedus.domain.errors import QuorumError
from foedus.domain.run import CohortTable

Selector = Callable[[tuple[str, ...], torch.Generator], tuple[str, ...]]


def uniform(cohort: CohortTable) -> Selector:
    """``size`` clients, or ``max(1, round(fraction · K))`` of K.

    Raises (when called):
        QuorumError: ``population_too_small``.

    >>> uniform(CohortTable(size=2))(("a", "b", "c"), torch.Generator().manual_seed(0))
    ('a', 'c')
    """

    def select(population: tuple[str, ...], generator: torch.Generator) -> tuple[str, ...]:
        size = cohort.size or max(1, round((cohort.fraction or 0.0) * len(population)))
        if size > len(population):
            raise QuorumError(
                "population_too_small",
                f"The cohort has {size} clients and the population {len(population)}.",
                "A round cannot ask more clients than there are.",
                "Lower `cohort.size`, or bring more clients.",
            )
        chosen = torch.randperm(len(population), generator=generator)[:size].tolist()
        ordered = sorted(population)
        return tuple(sorted(ordered[at] for at in chosen))

    return select
