"""What is kept of a run's rounds: a short row for each, and the whole record of the last one only.

Ten thousand rounds of a hundred clients are a million receipts; their rows are a few megabytes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from foedus.domain.round import RoundRecord

BANDED = 10
"""A round that heard of fewer clients than this has no percentiles."""

NAMED = 100_000
"""Clients whose names are kept; a run of more says "more than"."""

CLOCK = ("virtual_seconds", "virtual_client_seconds", "virtual_time")
COSTS = ("asked", "contributed", "failed", "bytes_down", "bytes_up", "seconds", "client_seconds", *CLOCK)
"""What a round cost, beside its metrics."""


@dataclass(frozen=True)
class RoundRow:
    """One round in short. ``bands``: per ``phase/metric`` the 10th and the 90th percentile over clients.

    Bytes and seconds are sums over phases; ``client_seconds`` is the measured work of all clients together. On the
    virtual clock the round took ``virtual_seconds``, in which clients worked for ``virtual_client_seconds``, and ended
    at ``virtual_time``.
    """

    round: int
    metrics: Mapping[str, float]
    bands: Mapping[str, tuple[float, float]]
    asked: int
    contributed: int
    failed: int
    bytes_down: int
    bytes_up: int
    seconds: float
    client_seconds: float
    model: str
    virtual_seconds: float = 0.0
    virtual_client_seconds: float = 0.0
    virtual_time: float = 0.0


@dataclass(frozen=True)
class Dropout:
    """How often a client failed, and when and why it did so last."""

    times: int
    round: int
    phase: str
    reason: str


class History:
    """Rows in the order of rounds, who dropped out, and the last record."""

    def __init__(self, records: Iterable[RoundRecord] = ()) -> None:
        self.rows: list[RoundRow] = []
        self.last: RoundRecord | None = None
        self.dropouts: dict[str, Dropout] = {}
        self.clients: set[str] = set()
        for record in records:
            self.add(record)

    def add(self, record: RoundRecord) -> None:
        """Take in the next round."""
        self.rows.append(row_of(record))
        self.last = record
        for phase in record.phases:
            if len(self.clients) <= NAMED:
                self.clients.update(phase.asked)
            for receipt in phase.receipts:
                known = self.dropouts.get(receipt.client)
                if receipt.failure and (known or len(self.dropouts) < NAMED):
                    times = known.times + 1 if known else 1
                    self.dropouts[receipt.client] = Dropout(times, record.round, phase.phase, receipt.failure)

    @property
    def asked(self) -> str:
        """How many clients a round asked: ``20``, or ``5 to 24`` where rounds differ."""
        counts = [row.asked for row in self.rows]
        return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def row_of(record: RoundRecord) -> RoundRow:
    """A record in short. The clients counted are those of the first phase; failures are those of every phase."""
    receipts = [receipt for phase in record.phases for receipt in phase.receipts]
    first = next((phase for phase in record.phases if phase.outcome != "abandoned"), None)
    return RoundRow(
        round=record.round,
        metrics=record.metrics,
        bands=_bands(record),
        asked=len(first.asked) if first else 0,
        contributed=sum(not receipt.failure for receipt in first.receipts) if first else 0,
        failed=sum(bool(receipt.failure) for receipt in receipts),
        bytes_down=sum(phase.bytes_down for phase in record.phases),
        bytes_up=sum(phase.bytes_up for phase in record.phases),
        seconds=record.seconds,
        client_seconds=sum(receipt.seconds for receipt in receipts),
        model=record.model,
        virtual_seconds=record.virtual_seconds,
        virtual_client_seconds=sum(phase.client_seconds for phase in record.phases),
        virtual_time=record.virtual_time,
    )


def as_columns(row: RoundRow) -> dict[str, float | int | str]:
    """A row as one table of plain values: metrics stand beside the rest, as ``test/accuracy``."""
    costs: dict[str, float | int | str] = {name: getattr(row, name) for name in COSTS}
    return {"round": row.round, **row.metrics, **costs, "model": row.model}


def _bands(record: RoundRecord) -> dict[str, tuple[float, float]]:
    bands = {}
    for phase in record.phases:
        for name in phase.metrics:
            values = [receipt.metrics[name] for receipt in phase.receipts if name in receipt.metrics]
            if len(values) >= BANDED:
                deciles = statistics.quantiles(values, n=10, method="inclusive")
                bands[f"{phase.phase}/{name}"] = (deciles[0], deciles[-1])
    return bands
