"""When a simulation writes a checkpoint: every so many rounds, or once a minute; when it is interrupted; at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from foedus.domain.checkpoint import CheckpointTable
from foedus.domain.errors import ConfigError, StorageError
from foedus.domain.plain import Json
from foedus.domain.round import PhaseOrder, Receipt
from foedus.engine.checkpoints import Checkpoint, write
from foedus.engine.choice import Choice
from foedus.engine.folder import RunFolder
from foedus.engine.snapshot import Snapshot

SECONDS = 60.0
"""Where ``[checkpoint] every`` is not given, a checkpoint is written after so many seconds …"""

FREE = ("executor", "workers", "reason")
"""What of a choice decides no bit."""

SHARE = 20
"""… and not before so many times as long as the last one took to write."""


class Keeping:
    """Keeps a run's checkpoints in its folder; ``before`` is the one that the run goes on from.

    A checkpoint that cannot be written ends the run, but not where it has ended anyway.
    """

    def __init__(self, folder: RunFolder, table: CheckpointTable, before: Checkpoint | None = None) -> None:
        self.begin = before.snapshot if before else None
        self._folder = folder
        self._table = table
        self._kept = before.rounds if before else 0
        self._spent = before.seconds if before else 0.0
        self._before = before.choice if before else {}
        self._choice: dict[str, Json] = {}
        self._began = self._last = time.monotonic()
        self._took = 0.0

    def chosen(self, choice: Choice) -> None:
        """Write down the choice, which a run that goes on has to repeat.

        Raises:
            ConfigError: ``choice_differs`` where it does not.
        """
        self._choice = asdict(choice)
        differs = [name for name in self._before if name not in FREE and self._before[name] != self._choice.get(name)]
        if differs:
            was, now = self._before[differs[0]], self._choice.get(differs[0])
            raise ConfigError(
                "choice_differs",
                f"The run was begun with {differs[0]} {was}, and would go on with {now}.",
                choice.reason,
                "Go on on a machine like the one that it was begun on, or begin another run with `--kernel eager`.",
            )
        self._folder.environment(self._choice)

    def between(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        """Write a checkpoint if it is time."""
        every = self._table.every
        if every is None:
            due = time.monotonic() - self._last >= max(SECONDS, SHARE * self._took)
        else:
            due = every > 0 and rounds % every == 0
        if due:
            self._write(rounds, snapshot())

    def abandoned(self, order: PhaseOrder, reason: str, receipts: Sequence[Receipt]) -> None:
        """Write the attempt into the log, with what the clients that failed said."""
        failures: dict[str, Json] = {receipt.client: receipt.failure for receipt in receipts if receipt.failure}
        place: dict[str, Json] = {"round": order.round, "phase": order.phase, "attempt": order.attempt}
        self._folder.log("abandoned", **place, reason=reason, failures=failures)

    def left(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        """Write the last checkpoint, unless there is none to write."""
        if self._table.every != 0 and rounds != self._kept:
            try:
                self._write(rounds, snapshot())
            except StorageError as error:
                self._folder.log("checkpoint_failed", reason=str(error))

    def _write(self, rounds: int, snapshot: Snapshot) -> None:
        position = self._folder.position(rounds)
        if position is None:  # the run was interrupted before the folder had heard of the round
            return
        began = time.monotonic()
        seconds = self._spent + began - self._began
        write(self._folder.path, Checkpoint(rounds, snapshot, position, self._choice, seconds), self._table.keep)
        self._last = time.monotonic()
        self._kept, self._took = rounds, self._last - began
        self._folder.log("checkpoint", round=rounds, seconds=round(self._took, 3))
