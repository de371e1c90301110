"""Who is told what a run does. Observers are told, never asked."""

from __future__ import annotations

from typing import Protocol

from foedus.domain.round import RoundRecord
from foedus.domain.tree import Tensors


class Observer(Protocol):
    """Hears of rounds as they are recorded, and of the end."""

    def round(self, record: RoundRecord) -> None:
        """A round was recorded."""

    def finished(self, model: Tensors) -> None:
        """The run completed with this model."""
