"""What every route works with, made once in the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from foedus.coordinator.guards import Guards
from foedus.coordinator.live import Live
from foedus.coordinator.refusals import Refusals
from foedus.coordinator.settings import Settings
from foedus.store.artifacts import Artifacts
from foedus.store.unit_of_work import Store


@dataclass(frozen=True)
class Context:
    """The coordinator's parts."""

    settings: Settings
    live: Live
    guards: Guards
    refusals: Refusals = field(default_factory=Refusals)

    @property
    def store(self) -> Store:
        """The database."""
        return self.live.store

    @property
    def artifacts(self) -> Artifacts:
        """The blobs."""
        return self.live.artifacts


def context(request: HTTPConnection) -> Context:
    """The parts behind a request."""
    found = request.app.state.context
    assert isinstance(found, Context)
    return found
