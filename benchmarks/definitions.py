"""What the jobs are. Every runner reads this, a peer's in its own environment too, so it needs nothing but Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PIXELS = 784


@dataclass(frozen=True)
class Job:
    """``low`` to ``high`` examples for each client; an MLP with ``hidden`` widths, or the CNN; plain SGD, one epoch."""

    name: str
    clients: int
    low: int
    high: int
    classes: int
    cohort: int
    rounds: int
    batch: int
    hidden: tuple[int, ...] = ()
    convolutions: bool = False
    lr: float = 0.1

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the MLP, from the pixels to the classes."""
        return (PIXELS, *self.hidden, self.classes)


JOBS: Mapping[str, Job] = {
    job.name: job
    for job in (
        Job("j1", 1000, 20, 60, 62, 100, 20, 10, (128,)),
        Job("j2", 200, 50, 50, 62, 20, 5, 10, convolutions=True),
        Job("j3", 10, 2000, 2000, 10, 10, 10, 32, (512, 512)),
        Job("flute", 1000, 60, 60, 10, 10, 100, 10, lr=0.03),
    )
}
