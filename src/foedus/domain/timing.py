"""The tables [schedule] and [time] of run.toml: when a phase closes, and how long simulated clients take.

The schedules' sources stand in :mod:`foedus.schedules`. Units: seconds, bytes per second, examples per second.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from foedus.domain.table import NUMBER, Table, Text

Seconds = Annotated[float, Field(gt=0, le=604800)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]
Chance = Annotated[float, Field(ge=0, le=1)]
Drawing = Literal["random", "round_robin"]


class SynchronousTable(Table):
    """Close when all answered, or as many as the cohort's size, or ``deadline`` seconds after the phase was opened."""

    name: Literal["synchronous"] = "synchronous"
    deadline: Seconds = 600.0


class StalenessTable(Table):
    """How an update counts that began ``tau`` versions of the model ago; over ``maximum`` it does not count.

    ``polynomial``: ``(1 + tau) ** -a``; ``hinge``: 1 up to ``b``, then ``1 / (a * (tau - b) + 1)``; ``constant``: 1.
    """

    name: Literal["polynomial", "hinge", "constant"] = "polynomial"
    a: Annotated[float, Field(ge=0, le=1000)] = 0.5
    b: Annotated[int, Field(ge=0, le=2**31)] = 4
    maximum: Annotated[int, Field(ge=0, le=2**31)] | None = None


class BufferedTable(Table):
    """Close when ``buffer`` contributions are there; ``cohort.size`` clients work at any time.

    Who was asked and has not answered after ``deadline`` seconds has failed, and its place is free.
    """

    name: Literal["buffered"]
    buffer: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    deadline: Seconds = 600.0
    staleness: StalenessTable = StalenessTable()
    selector: Drawing = "random"


class TimedTable(Table):
    """Close every ``every`` seconds over whoever reported; ``cohort.size`` clients work at any time.

    Who was asked and has not answered after ``deadline`` seconds has failed, and its place is free.
    """

    name: Literal["timed"]
    every: Seconds
    deadline: Seconds = 600.0
    staleness: StalenessTable = StalenessTable()
    selector: Drawing = "random"


class CyclicTable(Table):
    """One client after another: each round is one client's turn. Who fails or passes ``deadline`` is skipped."""

    name: Literal["cyclic"]
    deadline: Seconds = 600.0
    selector: Drawing = "round_robin"


def _name(value: Any) -> Any:
    """Which table of [schedule] a value is."""
    return value.get("name", "synchronous") if isinstance(value, dict) else getattr(value, "name", None)


ScheduleTable = Annotated[
    Annotated[SynchronousTable, Tag("synchronous")]
    | Annotated[BufferedTable, Tag("buffered")]
    | Annotated[TimedTable, Tag("timed")]
    | Annotated[CyclicTable, Tag("cyclic")],
    Discriminator(_name),
]


class Uniform(Table):
    """Between ``low`` and ``high``, each value as likely."""

    name: Literal["uniform"]
    low: Amount = 0.0
    high: Rate

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("`low` is above `high`")
        return self


class Lognormal(Table):
    """``median * exp(sigma * z)`` with ``z`` standard normal."""

    name: Literal["lognormal"]
    median: Rate
    sigma: Annotated[float, Field(ge=0, le=10)]


class Exponential(Table):
    """Exponential with this ``mean``."""

    name: Literal["exponential"]
    mean: Rate


def _kind(value: Any) -> Any:
    """Which kind of distribution a value is; a number is itself, for every client."""
    if isinstance(value, dict):
        return value.get("name")
    return NUMBER if isinstance(value, (int, float)) else getattr(value, "name", NUMBER)


Drawn = (
    Annotated[Uniform, Tag("uniform")]
    | Annotated[Lognormal, Tag("lognormal")]
    | Annotated[Exponential, Tag("exponential")]
)
RateOf = Annotated[Annotated[Rate, Tag(NUMBER)] | Drawn, Discriminator(_kind)]
AmountOf = Annotated[Annotated[Amount, Tag(NUMBER)] | Drawn, Discriminator(_kind)]
ChanceOf = Annotated[Annotated[Chance, Tag(NUMBER)] | Drawn, Discriminator(_kind)]
Distribution = float | Uniform | Lognormal | Exponential


class NetworkTable(Table):
    """A client's network: ``down`` and ``up`` in bytes per second (none: no time), ``latency`` in seconds per ask."""

    down: RateOf | None = None
    up: RateOf | None = None
    latency: AmountOf = 0.0


class TimeTable(Table):
    """How long simulated clients take, on a virtual clock; each value is a number or a distribution over clients.

    ``speed``: examples per second. ``availability``: the chance that a client is there in a round. ``dropout``: the
    chance that it goes away while it works. ``failure``: the chance that its work fails at its end. ``trace``: a CSV
    file with a row per client, which goes before the distributions. With neither of speed, network and trace an ask
    takes one second.
    """

    speed: RateOf | None = None
    network: NetworkTable | None = None
    availability: ChanceOf = 1.0
    dropout: ChanceOf = 0.0
    failure: ChanceOf = 0.0
    trace: Text | None = None
