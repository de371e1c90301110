"""How long each ask of a phase takes: what it weighs, on the device of its client."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from foedus.domain.errors import ClientWorkError
from foedus.domain.round import Schema
from foedus.domain.tree import dtypes, size_in_bytes
from foedus.engine.client import part_of
from foedus.engine.devices import Devices, Load, Pace
from foedus.engine.kernels import ClientSource, PhaseWork
from foedus.engine.prepare import Prepared
from foedus.engine.trace import read_trace


@dataclass(frozen=True)
class Pacing:
    """The clients' devices and data."""

    devices: Devices
    source: ClientSource

    def of(self, work: PhaseWork) -> Callable[[str], Pace]:
        """How long a phase's work takes a client; its data are looked at only where their number counts."""
        down = sum(size_in_bytes(part) for part in work.broadcast.tensors.values())
        up, order = update_bytes(work.phase.schema), work.order
        place = (order.round, order.phase + (f" {order.attempt}" if order.attempt else ""))

        def pace(client: str) -> Pace:
            examples = 0
            if self.devices.counts_examples:
                with suppress(ClientWorkError):  # the client will say so when its work is asked for
                    data = self.source(client)
                    examples = work.phase.seen(len(part_of(order.phase, data)))
            return self.devices.pace(place, client, Load(examples, down, up))

        return pace


def pacing(prepared: Prepared, names: Sequence[str], source: ClientSource) -> Pacing:
    """The devices as the table [time] says, whose trace is read here.

    Raises:
        DataError: ``trace_unreadable``, ``trace_refused``.
    """
    table, seed = prepared.spec.time, prepared.spec.seed
    trace = read_trace(prepared.base / table.trace, names) if table and table.trace else {}
    return Pacing(Devices(table, trace, seed), source)


def update_bytes(schema: Schema) -> int:
    """The bytes of an update as the schema declares it."""
    specs = (spec for part in schema.parts.values() for spec in part.tensors.values())
    return sum(math.prod(spec.shape) * dtypes[spec.dtype].itemsize for spec in specs)
