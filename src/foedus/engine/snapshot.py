"""Where a simulated run is between two rounds, as a value, and who may keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foedus.domain.round import PhaseOrder, Receipt
from foedus.domain.tree import State
from foedus.engine.choice import Choice


@dataclass(frozen=True)
class Snapshot:
    """All that the next round depends on. ``state`` is the strategy's; ``clients`` are the clients' current states.

    ``port`` is what a virtual clock knows: its time, and what is under way.
    """

    state: State
    clients: Mapping[str, State] = field(default_factory=dict)
    port: State = field(default_factory=State)


class Keeper(Protocol):
    """Hears where a run is, so that it can go on from there. ``begin`` is where this run goes on from, if it does."""

    begin: Snapshot | None

    def chosen(self, choice: Choice) -> None:
        """The kernel and the executor were chosen; no round was run yet."""

    def between(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        """So many rounds are done; ``snapshot`` is called now or not at all."""

    def abandoned(self, order: PhaseOrder, reason: str, receipts: Sequence[Receipt]) -> None:
        """An attempt of a phase was given up."""

    def left(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        """No more rounds are run: all are done, or something raised."""
