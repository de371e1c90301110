"""What a schedule hears (events) and says (commands). One driver feeds it, on a virtual clock and on a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foedus.schedules.selectors import Drawer


@dataclass(frozen=True)
class Reported:
    """A client's contribution was accepted, ``at`` seconds after the phase was opened.

    ``staleness``: how many versions the model is further than the one that the client began with.
    """

    client: str
    at: float
    staleness: int = 0


@dataclass(frozen=True)
class Failed:
    """A client will not contribute to this phase."""

    client: str
    at: float


@dataclass(frozen=True)
class Tick:
    """It is ``at`` seconds after the phase was opened."""

    at: float


@dataclass(frozen=True)
class Asked:
    """What a :class:`Draw` came to: these were asked; fewer than wanted where too few were idle."""

    clients: tuple[str, ...]
    at: float


Event = Reported | Failed | Tick | Asked


@dataclass(frozen=True)
class Ask:
    """Ask these clients."""

    clients: tuple[str, ...]


@dataclass(frozen=True)
class WakeAt:
    """Send a :class:`Tick` at ``at`` seconds after the phase was opened, when all else of that instant was told.

    There is one alarm: the last one that was set.
    """

    at: float


@dataclass(frozen=True)
class Draw:
    """Ask so many clients that are idle; ``number`` counts the draws of a phase, from 0."""

    count: int
    number: int


@dataclass(frozen=True)
class Close:
    """Close the phase over these clients' contributions, in the order of their names.

    ``factors``: what staleness leaves of each one's update, in the same order; none means all of it.
    """

    clients: tuple[str, ...]
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Abandon:
    """Give this attempt up; nothing of it counts."""

    reason: str


Command = Ask | Draw | WakeAt | Close | Abandon


@dataclass(frozen=True)
class Schedule:
    """``init(clients) → (state, commands)``; ``advance(state, event) → (state, commands)``.

    ``clients`` are the cohort that the phase asks. A schedule with a ``drawer``, which chooses among the idle clients,
    asks by :class:`Draw` instead. Where it ``carries``, asks that are out when a phase closes go on in the next one,
    and ``clients`` are those that are out.
    ``patience``: seconds after which an ask that is out is given up, and its client has failed.
    ``everyone(asked, last)``: whether all of so many clients are counted for sure if the last reports at ``last``.
    """

    init: Callable[[tuple[str, ...]], tuple[Any, tuple[Command, ...]]]
    advance: Callable[[Any, Event], tuple[Any, tuple[Command, ...]]]
    drawer: Drawer | None = None
    carries: bool = False
    patience: float | None = None
    everyone: Callable[[int, float], bool] = lambda asked, last: False

    @property
    def draws(self) -> bool:
        """Whether it asks by drawing."""
        return self.drawer is not None


def no_answer(patience: float) -> str:
    """Why an ask that was out for longer than ``patience`` seconds has failed."""
    return f"no_answer: It did not contribute within {patience:g} s of being asked."
