"""How the work of a round goes while it goes on: what nodes stream, and what people read of it.

A node sends one Reports message in :data:`EVERY` seconds at most, whatever it works on, and none where its owner's
policy keeps metrics there. What is lost on the way is lost: nothing depends on it.

================================  ======  =====================================================
path                              by      what
================================  ======  =====================================================
POST /node/progress               node    Reports → Noted
GET /runs/{id}/progress           people  → ProgressList, after a number, of one client or of all
================================  ======  =====================================================
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from foedus.wire.messages import Count, Finite, Id, Line, Message, Name

EVERY = 1.0
"""Seconds between two messages of a node."""

POINTS, REPORTS, LINES = 200, 20, 50
"""Points of a report, reports of a message, and lines that a plan printed in a report."""

PAGE = 200
"""Reports that one look brings at most."""

Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class Point(Message):
    """So many of the work's ``steps`` are done; ``values`` are those of the last one, as its loss."""

    step: Count
    steps: Count
    values: Annotated[dict[Name, Finite], Field(max_length=20)]


class Report(Message):
    """How the work for one assignment goes.

    ``cpu``: seconds of a processor that its process has used since it began, ``memory``: bytes that it had at most.
    ``lines``: what the plan printed, where the owner's policy lets it leave.
    """

    assignment: Id
    points: Annotated[tuple[Point, ...], Field(max_length=POINTS)] = ()
    cpu: Seconds = 0.0
    memory: Count = 0
    lines: Annotated[tuple[Annotated[Line, StringConstraints(max_length=500)], ...], Field(max_length=LINES)] = ()


class Reports(Message):
    """How all work of a node goes."""

    reports: Annotated[tuple[Report, ...], Field(min_length=1, max_length=REPORTS)]


class Noted(Message):
    """How many of the reports were kept; the others are of assignments that are not this node's."""

    kept: Count


class ProgressView(Message):
    """A report as people see it; ``id`` grows. ``at``: when it came, in Unix seconds."""

    id: Count
    run: Id
    round: Count
    phase: str
    client: str
    at: Finite
    points: tuple[Point, ...]
    cpu: float
    memory: Count
    lines: tuple[str, ...] = ()


class ProgressList(Message):
    """Reports in the order in which they came; ``more``: there are others after them."""

    reports: Annotated[tuple[ProgressView, ...], Field(max_length=PAGE)]
    more: bool = False
