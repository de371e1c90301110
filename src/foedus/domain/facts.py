"""What is known of a client before it is asked: facts that it reported as it joined in, or that a simulation draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Facts:
    """A client's examples, largest batch, and speed in examples per second; its machine's device and frameworks.

    What is none was not reported.
    """

    examples: int | None = None
    batch_size: int | None = None
    speed: float | None = None
    device: str | None = None
    frameworks: Mapping[str, str] = field(default_factory=dict)


NO_FACTS: Mapping[str, Facts] = {}
