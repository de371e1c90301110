"""The nouns of a round: what is asked of clients, what they send, and what is kept of it (McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foedus.domain.header import TensorSpec
from foedus.domain.plain import Json

if TYPE_CHECKING:  # which loads torch
    from foedus.domain.tree import Parts

FOLD_BLOCK = 10
"""Contributions that are summed together first. Cut from the sorted asked cohort; who is absent leaves a hole."""

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class PartSpec:
    """One named part of an update: its tensors, and the weight that its mean uses.

    ``discounted``: staleness shrinks it, as it does a difference; what a client sends as values is not shrunk.
    """

    tensors: Mapping[str, TensorSpec]
    weight: str
    discounted: bool = True


@dataclass(frozen=True)
class Schema:
    """What a phase's update must look like: parts, weights and metrics, nothing more and nothing less."""

    parts: Mapping[str, PartSpec]
    weights: tuple[str, ...]
    metrics: tuple[str, ...]

    def discounted(self, update: Parts, factor: float) -> Parts:
        """An update as staleness leaves it: its differences times ``factor``, and what is sent as values as it is."""
        shrunk = {part for part, spec in self.parts.items() if spec.discounted}
        return {
            part: {name: tensor * factor for name, tensor in tensors.items()} if part in shrunk else tensors
            for part, tensors in update.items()
        }


@dataclass(frozen=True)
class Ask:
    """What a phase wants of one client: the phase's work, on the dataset of this name."""

    client: str
    round: int
    phase: str


@dataclass(frozen=True)
class Broadcast:
    """What goes down to clients: tensors and typed options."""

    tensors: Parts
    options: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """What is kept of a contribution when its tensors are gone.

    ``weights`` and ``metrics`` as sent; ``digest`` names the update's bytes, ``state`` the client state that becomes
    current because this contribution was counted (both empty in simulation); ``seconds`` of work on the client.
    ``failure`` is a reason where the client did not contribute, and empty where it did. ``staleness``: how many
    versions the model was further, when the phase was closed, than the one that the client began with. ``loading``: the
    name and digest of the loading plan that the client's data were read by (empty: by none, or in simulation).
    """

    client: str
    weights: Mapping[str, float]
    metrics: Metrics
    digest: str = ""
    state: str = ""
    seconds: float = 0.0
    size: int = 0
    failure: str = ""
    staleness: int = 0
    loading: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Contribution:
    """An update with weights and metrics, as received. ``update`` has the parts that the phase's schema declares.

    ``seconds`` of work, and what they were spent on (``timings``).
    """

    client: str
    update: Parts
    weights: Mapping[str, float]
    metrics: Metrics
    seconds: float = 0.0
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """The cohort's combined update; ``count`` contributions are in it.

    ``factors``: what staleness left of each, in the order of client names; none where the schedule knows no staleness.
    """

    tensors: Parts
    count: int
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class PhaseOrder:
    """One phase as planned: whom it asks, in the order of their names. ``attempt`` counts from 0."""

    round: int
    phase: str
    clients: tuple[str, ...]
    attempt: int = 0

    @property
    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """The fold blocks: constant size, cut from the sorted asked cohort."""
        ordered = tuple(sorted(self.clients))
        return tuple(ordered[at : at + FOLD_BLOCK] for at in range(0, len(ordered), FOLD_BLOCK))


@dataclass(frozen=True)
class PhaseRecord:
    """What happened in a phase. ``metrics`` are means over the receipts, weighted by examples.

    In simulation it took ``virtual_seconds``, in which clients worked for ``client_seconds`` all together.
    """

    phase: str
    asked: tuple[str, ...]
    receipts: tuple[Receipt, ...]
    metrics: Metrics
    bytes_down: int = 0
    bytes_up: int = 0
    outcome: str = "closed"
    virtual_seconds: float = 0.0
    client_seconds: float = 0.0


@dataclass(frozen=True)
class RoundRecord:
    """What happened in a round (1-based), phase by phase; ``model`` is the digest of the model after it.

    ``central``: loss and metrics of that model on the held-out part, in the rounds in which it was measured.
    ``virtual_time``: seconds on the simulation's virtual clock when the round was done; it took ``virtual_seconds``,
    which are those of its phases without tests, and of waiting for clients.
    """

    round: int
    phases: tuple[PhaseRecord, ...]
    model: str
    seconds: float
    central: Metrics = field(default_factory=dict)
    virtual_time: float = 0.0
    virtual_seconds: float = 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """Every phase's metrics under ``phase/metric``, as ``train/loss``; the held-out part's as ``central/loss``."""
        phases = {f"{phase.phase}/{name}": value for phase in self.phases for name, value in phase.metrics.items()}
        return phases | {f"central/{name}": value for name, value in self.central.items()}
