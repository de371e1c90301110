"""What a client measures around its training: the model as it came, and as it left, on its own test part.

The received model's metrics are tagged ``global.``, the trained model's ``local.``, so ``global.accuracy`` before and
``local.accuracy`` after. What fails here is logged, and the round goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

GLOBAL, LOCAL = "global", "local"

LOG_INTERVAL = 10
"""Steps from one that is told to the next."""


@dataclass(frozen=True)
class Checks:
    """Measure ``before`` and ``after`` training; ``shuffle``: on a test part that is drawn anew in each round.

    ``log_interval``: every so many steps, and at the last one, a client says how its training goes.
    """

    before: bool = False
    after: bool = False
    shuffle: bool = False
    log_interval: int = LOG_INTERVAL

    @property
    def any(self) -> bool:
        """Whether there is anything to do but to train."""
        return self.before or self.after or self.shuffle

    def names(self, metrics: tuple[str, ...]) -> tuple[str, ...]:
        """What the metrics of these names are called around training.

        >>> Checks(before=True).names(("loss", "accuracy"))
        ('global.loss', 'global.accuracy')
        """
        tags = (*((GLOBAL,) if self.before else ()), *((LOCAL,) if self.after else ()))
        return tuple(f"{tag}.{metric}" for tag in tags for metric in metrics)


NO_CHECKS = Checks()


@dataclass(frozen=True)
class Logged:
    """How a client's work goes: so many of its ``steps`` are done; ``metrics`` are those of the last one's batch."""

    phase: str
    step: int
    steps: int
    metrics: dict[str, float]
