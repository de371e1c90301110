"""The settings of webhooks: where they may lead, and how often an event is tried."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from foedus.coordinator.outbound import Rules


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WebhookSettings:
    """``hosts``: names that webhooks may lead to although their addresses are private, or plain http on this machine.

    An event is tried ``attempts`` times; after each failure the next try waits twice as long, from ``backoff`` seconds
    to an hour.
    """

    hosts: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    attempts: Annotated[int, Field(ge=1, le=100)] = 12
    backoff: Annotated[float, Field(gt=0, le=3600)] = 1.0

    @property
    def rules(self) -> Rules:
        """Where requests may go."""
        return Rules(trusted=frozenset(host.lower() for host in self.hosts), limit=64 << 10)
