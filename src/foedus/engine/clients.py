"""The simulated clients' data, prepared by the plan on demand, a bounded part of it kept."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from foedus.data.dataset import ClientData, Columns, prepare_client
from foedus.data.population import Federation
from foedus.domain.errors import ClientWorkError, DataError, FoedusError, PlanError
from foedus.engine.prepare import Prepared

MIB = 2**20
OVERHEAD = 4096
"""Bytes that a client's prepared data take beside those of its tensors, about."""


@dataclass
class Clients:
    """The simulated clients' data, prepared by the plan when it is asked for.

    Those asked for last are kept, up to ``[data] cache`` MiB, so that memory stays flat whatever the population.
    """

    prepared: Prepared
    federation: Federation
    ready: OrderedDict[str, ClientData] = field(default_factory=OrderedDict)
    held: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.federation.vertical:
            strategy = self.prepared.spec.strategy.name
            raise DataError(
                "partition_vertical",
                f"The strategy `{strategy}` needs clients that have rows, and this partition gives each other columns.",
                "Each client would train another model.",
                "Use a partition by rows; `foedus data partition` writes the vertical parts as files.",
            )

    def __call__(self, name: str) -> ClientData:
        """One client's prepared data.

        Raises:
            ClientWorkError: ``client_unreadable``, and what :func:`prepare_client` says of this client alone.
            DataError: ``column_missing``, which is true of every client.
        """
        if name in self.ready:
            self.ready.move_to_end(name)
            return self.ready[name]
        spec = self.prepared.spec
        test, validation = spec.test.ratio, spec.test.validation
        try:
            data = prepare_client(name, self._columns(name), self.prepared.plan.prepare, test, spec.seed, validation)
        except (PlanError, DataError) as error:
            if error.code == "column_missing":
                raise
            raise ClientWorkError(error.code, error.what, error.why, error.fix) from error
        data = self.ready[name] = data.to(self.device)
        self.held += size_of(data)
        while self.held > spec.data.cache * MIB and len(self.ready) > 1:
            self.held -= size_of(self.ready.popitem(last=False)[1])
        return data

    def _columns(self, name: str) -> Columns:
        """A client's columns; what makes them may be a function of the user's."""
        try:
            return self.federation.clients[name]
        except FoedusError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise ClientWorkError("client_unreadable", f"The data of {name} cannot be read.", why) from error


def size_of(data: ClientData) -> int:
    """The bytes that a client's prepared data take, about."""
    parts = (data.train, data.test, data.validation)
    return OVERHEAD + sum(tensor.nbytes for part in parts for tensor in part.tensors.values())
