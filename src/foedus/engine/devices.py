"""How long simulated clients take, and which of them are there, drop out or fail: by seed, or from a trace.

Time is counted in whole microseconds, so that the order of events is exact and the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import overload

import torch

from foedus.domain.errors import QuorumError
from foedus.domain.rng import derive, generator
from foedus.domain.timing import Distribution, Exponential, NetworkTable, TimeTable, Uniform
from foedus.engine.trace import COLUMNS

MICRO = 1_000_000
LONGEST = 10 * 365 * 86400.0
"""No ask takes longer, in seconds: ten years."""

SLOWEST = 1e-9
"""No rate that is drawn is lower."""

WAIT, WAITS = 60.0, 1000
"""Seconds after which a run looks again for clients where too few are there, and how often."""

UNSAID = 1.0
"""Seconds that every ask takes where nothing is said of time."""


@dataclass(frozen=True)
class Load:
    """What an ask weighs: examples to go over (epochs counted), and bytes down and up."""

    examples: int
    down: int
    up: int


@dataclass(frozen=True)
class Pace:
    """How long an ask keeps a client, in microseconds, and why it fails at the end of that, if it does."""

    micros: int
    failure: str = ""


class Devices:
    """The clients' devices, as the table [time] says; ``trace`` has a row of :data:`COLUMNS` per client."""

    def __init__(self, table: TimeTable | None, trace: Mapping[str, Sequence[float | None]], seed: int) -> None:
        table = table or TimeTable()
        network = table.network or NetworkTable()
        said = table.speed is not None or table.network is not None or bool(trace)
        self._distributions: Mapping[str, Distribution | None] = {
            "speed": table.speed,
            "down": network.down,
            "up": network.up,
            "latency": network.latency if said else UNSAID,
            "availability": table.availability,
            "dropout": table.dropout,
            "failure": table.failure,
        }
        self._trace, self._seed = trace, seed
        self._chances: torch.Tensor | None = None

    @property
    def even(self) -> bool:
        """Whether every client takes the same time for the same work, whatever its examples, and none fails."""
        known = self._distributions
        plain = all(value is None or isinstance(value, float) for value in known.values())
        return plain and not self._trace and known["speed"] is None and not known["dropout"] and not known["failure"]

    @property
    def counts_examples(self) -> bool:
        """Whether time may depend on a client's number of examples."""
        return self._distributions["speed"] is not None or bool(self._trace)

    def value(self, client: str, column: str) -> float | None:
        """One property of a client's device; none where nothing is said of it."""
        row = self._trace.get(client)
        traced = row[COLUMNS.index(column)] if row is not None else None
        distribution = self._distributions[column]
        if traced is not None or distribution is None:
            return traced
        return (
            float(distribution) if isinstance(distribution, (int, float)) else self._drawn(distribution, client, column)
        )

    def pace(self, place: tuple[int, str], client: str, load: Load) -> Pace:
        """How long an ask takes: latency + bytes down / rate + examples / speed + bytes up / rate.

        ``place``: round and purpose; the chances to drop out and to fail are taken anew for each.
        """
        seconds = self.value(client, "latency") or 0.0
        for amount, column in ((load.down, "down"), (load.examples, "speed"), (load.up, "up")):
            rate = self.value(client, column)
            seconds += amount / max(rate, SLOWEST) if rate is not None else 0.0
        micros = round(min(seconds, LONGEST) * MICRO)
        if self._happens(place, client, "dropout"):
            gone = int(micros * _uniform(derive(self._seed, place[0], client, f"dropout at {place[1]}")))
            return Pace(gone, f"dropped_out: {client} went away after {gone / MICRO:g} s of virtual time.")
        if self._happens(place, client, "failure"):
            return Pace(micros, f"injected_failure: {client} failed after {micros / MICRO:g} s of virtual time.")
        return Pace(micros)

    def there(self, names: Sequence[str], round_number: int, needed: int) -> tuple[Sequence[str], float]:
        """The clients that are there in a round, at least ``needed``, and how many seconds that took.

        Raises:
            QuorumError: ``population_away`` where too few were there at every look.
        """
        if self._distributions["availability"] == 1.0 and not self._trace:
            return names, 0.0
        if self._chances is None:
            self._chances = torch.tensor([self.value(name, "availability") for name in names], dtype=torch.float64)
        if bool((self._chances >= 1.0).all()):
            return names, 0.0
        for look in range(WAITS):
            random = generator(self._seed, round_number, "", f"availability {look}")
            present = torch.rand(len(names), generator=random, dtype=torch.float64) < self._chances
            if int(present.sum()) >= min(needed, len(names)):
                return Some(names, present.nonzero().flatten()), look * WAIT
        raise QuorumError(
            "population_away",
            f"In round {round_number} fewer than {needed} of {len(names)} clients were there at each of {WAITS} looks.",
            "A round needs as many as its cohort's size.",
            "Raise `time.availability`, or lower `cohort.size`.",
        )

    def _happens(self, place: tuple[int, str], client: str, column: str) -> bool:
        chance = self.value(client, column)
        return bool(chance) and _uniform(derive(self._seed, place[0], client, f"{column} {place[1]}")) < (chance or 0.0)

    def _drawn(self, distribution: Distribution, client: str, column: str) -> float:
        random = _uniform(derive(self._seed, 0, client, f"device {column}"))
        if isinstance(distribution, Uniform):
            return distribution.low + (distribution.high - distribution.low) * random
        if isinstance(distribution, Exponential):
            return -distribution.mean * math.log1p(-random)
        assert not isinstance(distribution, float)
        return distribution.median * math.exp(distribution.sigma * NormalDist().inv_cdf(random))


class Some(Sequence[str]):
    """Some names of a population, by their places; none is made before it is asked for."""

    def __init__(self, names: Sequence[str], places: torch.Tensor) -> None:
        self._names, self._places = names, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        if isinstance(at, slice):
            return tuple(self._names[place] for place in self._places[at].tolist())
        return self._names[int(self._places[at])]


def _uniform(seed: int) -> float:
    """A number between 0 and 1, neither of them, from 63 bits."""
    return ((seed >> 11) + 0.5) / 2**52
