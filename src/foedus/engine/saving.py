"""What checkpointers keep in a simulation: ``saved/CLIENT/NAME.json`` and its model, in the run's folder.

The files are written by the process that works for the client; a run that goes on after it was killed writes them anew
for the rounds that it repeats, with the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foedus.data.dataset import ClientData
from foedus.domain.errors import ConfigError
from foedus.domain.names import NAME
from foedus.domain.round import Ask
from foedus.domain.saved import SavedModel, keep, read
from foedus.engine.prepare import Prepared
from foedus.local.checkpointers import Kept, Look, Watch, watch_of
from foedus.local.work import Measured

RUN = "simulation"
"""What a simulation's saved models call their run; it is the folder that tells it from others."""

Saves = Callable[[Measured], "Saving"]
"""``objective →`` what keeps the models that a run's checkpointers choose."""


def saving_of(prepared: Prepared) -> Saves | None:
    """What makes the keeper of a run's models; None where it has no checkpointers, or no folder for them."""
    spec, folder, plan = prepared.spec, prepared.saved, prepared.plan
    if folder is None or not spec.checkpointer:
        return None
    return lambda objective: Saving(folder, prepared.bundle.digest, watch_of(spec, plan, objective))


def check_saving(prepared: Prepared, executor: str) -> None:
    """Refuse an executor whose processes may not see the run's folder.

    Raises:
        ConfigError: ``checkpointers_on_ray``.
    """
    if executor == "ray" and prepared.spec.checkpointer:
        raise ConfigError(
            "checkpointers_on_ray",
            "The executor `ray` keeps no models for checkpointers.",
            "Its actors may be on machines that do not see the run's folder.",
            "Use `--executor workers`, or leave [[checkpointer]] out.",
        )


@dataclass(frozen=True)
class Saving:
    """Where a simulation's clients keep models of the plan with this digest, and what chooses them."""

    folder: Path
    plan: str
    watch: Watch

    def look(self, ask: Ask, data: ClientData) -> Look:
        """What looks at the models of one client's ask, and keeps them."""
        client = ask.client if NAME.fullmatch(ask.client) else hashlib.sha256(ask.client.encode()).hexdigest()[:40]
        place = self.folder / client

        def best(name: str) -> float | None:
            record = read(place, name)
            return record.score if record else None

        def save(kept: Kept) -> None:
            digest = hashlib.sha256(kept.content).hexdigest()
            for name, score in kept.scores.items():
                record = SavedModel(
                    run=RUN,
                    client=client,
                    checkpointer=name,
                    when=kept.when,
                    round=kept.round,
                    score=score,
                    plan=self.plan,
                    sha256=digest,
                    size=len(kept.content),
                    at=time.time(),
                )
                place.mkdir(parents=True, exist_ok=True)
                part = place / f".{name}.part"
                part.write_bytes(kept.content)
                keep(place, name, record, part, move)

        return self.watch.over(ask, data, best, save)


def move(source: Path, target: Path) -> None:
    """Move a file to its place; its bytes are on the disk before its name is."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
