"""Where a model comes from, and the updates that it was made of.

=====================================  ======  ======================================
path                                   by      what
=====================================  ======  ======================================
GET /runs/{id}/models/{round}          people  → ModelView
GET /runs/{id}/models/{round}/lineage  people  → Lineage
GET /runs/{id}/rounds/{round}/updates  people  → UpdateList: what each client sent
=====================================  ======  ======================================

The files themselves are blobs, under their digests.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from foedus.wire.messages import Digest, Id, Message, ModelView, Name


class ContributionView(Message):
    """What a client gave to a model: the digest of its update's file, what it weighed, and the phase."""

    client: Name
    phase: str
    update: str
    weights: dict[str, float]
    staleness: int = 0


class Lineage(Message):
    """A model's descent: its parent, who contributed what, and by which plan and strategy; ``author`` submitted it.

    ``failed`` names those who were asked and did not contribute. The initial model has no parent.
    """

    model: ModelView
    parent: ModelView | None
    contributions: tuple[ContributionView, ...]
    failed: tuple[Name, ...]
    plan: Digest
    strategy: str
    options: dict[str, Any]
    seed: int
    author: str
    submitted_at: datetime


class UpdateView(Message):
    """A client's update in a round. ``kept``: its bytes are here."""

    run: Id
    round: int
    phase: str
    client: Name
    digest: str
    size: int
    kept: bool


class UpdateList(Message):
    """What clients sent in a round, by name."""

    updates: tuple[UpdateView, ...]
