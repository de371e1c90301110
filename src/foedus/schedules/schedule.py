"""What a schedule hears (events) and says (commands). One driver feeds it, on a virtual clock and on a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reported:
    """A client's contribution was accepted, ``at`` seconds after the phase was opened."""

    client: str
    at: float


@dataclass(frozen=True)
class Failed:
    """A client will not contribute to this phase."""

    client: str
    at: float


@dataclass(frozen=True)
class Tick:
    """It is ``at`` seconds after the phase was opened."""

    at: float


Event = Reported | Failed | Tick


@dataclass(frozen=True)
class Ask:
    """Ask these clients."""

    clients: tuple[str, ...]


@dataclass(frozen=True)
class WakeAt:
    """Send a :class:`Tick` at ``at`` seconds after the phase was opened."""

    at: float


@dataclass(frozen=True)
class Close:
    """Close the phase over these clients' contributions, in the order of their names."""

    clients: tuple[str, ...]


@dataclass(frozen=True)
class Abandon:
    """Give this attempt up; nothing of it counts."""

    reason: str


Command = Ask | WakeAt | Close | Abandon


@dataclass(frozen=True)
class Schedule:
    """``init(clients) → (state, commands)``; ``advance(state, event) → (state, commands)``."""

    init: Callable[[tuple[str, ...]], tuple[Any, tuple[Command, ...]]]
    advance: Callable[[Any, Event], tuple[Any, tuple[Command, ...]]]
