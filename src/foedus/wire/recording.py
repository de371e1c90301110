"""What a run's schedules heard, as it was recorded: enough to replay the run in a simulation with the same digest.

================================  ======  =======================  ==========================================
path                              by      message → reply          what
================================  ======  =======================  ==========================================
GET /runs/{id}/rounds/{n}/heard   people  → RoundHeard             of one round, every attempt of every phase
================================  ======  =======================  ==========================================
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foedus.wire.messages import Count, Message, Name

At = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HeardEvent(Message):
    """One event: ``asked`` names all of ``clients``, ``reported`` and ``failed`` one, and ``tick`` nobody."""

    kind: Literal["asked", "reported", "failed", "tick"]
    clients: tuple[Name, ...] = ()
    at: At
    staleness: Count = 0


class PhaseHeard(Message):
    """One attempt of a phase: whom it asked when it was opened (or who was out by then), and what it heard."""

    round: Count
    phase: Name
    attempt: Count
    clients: tuple[Name, ...]
    events: tuple[HeardEvent, ...]


class RoundHeard(Message):
    """The phases of a round, in the order in which they were opened."""

    phases: tuple[PhaseHeard, ...]
