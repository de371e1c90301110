"""When a node that has nothing to do is told to come back, from the size of the population.

After Bonawitz et al., Towards Federated Learning at Scale (MLSys 2019, https://arxiv.org/abs/1902.01046), section 2.3,
pace steering: a small population polls all the time, so that a cohort forms at once; of a large one as many are
connected at any time as the coordinator can hold, and their returns are spread.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select

from foedus.store.tables import nodes

CONNECTED = 5000
"""Nodes without work that are connected at one time, about."""

LONGEST = 3600.0
"""Seconds that a node is sent away for at most."""

COUNTED = 10.0
"""Seconds after which the nodes are counted again."""

_THERE = (nodes.c.status == "active", nodes.c.last_seen > bindparam("since"))
_POPULATION = select(func.count()).select_from(nodes).where(*_THERE)


@dataclass
class Population:
    """The nodes that were there lately, as they were counted last; a convenience of this process, not a fact."""

    size: int = 0
    at: float = float("-inf")

    def count(self, tx: Connection, now: float) -> int:
        """How many there are, about; ``now`` in seconds since the epoch."""
        if not self.at <= now < self.at + COUNTED:
            self.at, self.size = now, tx.execute(_POPULATION, {"since": now - LONGEST}).scalar_one()
        return self.size


def come_back(population: int, wait: float, chance: random.Random, connected: int = CONNECTED) -> float:
    """Seconds until a node that polled for ``wait`` seconds in vain polls again; none where all may stay connected.

    Each of the ``population`` is then connected for ``connected / population`` of its time. Half more or less by chance
    spreads them.

    >>> come_back(5000, 25.0, random.Random(0))
    0.0
    >>> 25.0 * 3 / 2 <= come_back(20_000, 25.0, random.Random(0)) <= 25.0 * 3 * 3 / 2
    True
    """
    if population <= connected:
        return 0.0
    return min(LONGEST, wait * (population / connected - 1.0) * chance.uniform(0.5, 1.5))


def leave(chance: random.Random) -> float:
    """Seconds after which a node whose coordinator is about to end tries anew: a restart, or the other replicas."""
    return chance.uniform(0.5, 3.0)
