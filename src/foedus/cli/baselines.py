"""What a federation is compared with: each client alone, and all data in one place; by the same engine code.

Both are federations of one client, whose weighted mean is that client's own model: the same rounds, local epochs and
initial parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from foedus.data.catalogue import federate
from foedus.data.dataset import Columns
from foedus.data.population import Federation
from foedus.domain.run import CohortTable
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared, prepare_spec
from foedus.engine.simulate import simulate_on

POOLED = "pooled"


def baselines(prepared: Prepared) -> dict[str, dict[str, float]]:
    """Loss and metrics on the held-out part: of each client that trained alone, by name, and of ``pooled`` data."""
    federation = federate(prepared.spec, prepared.base, prepared.alignment)
    spec = prepared.spec.model_copy(update={"cohort": CohortTable(size=1)})
    single = prepare_spec(spec, prepared.base, prepared.alignment)
    alone = {name: _train(single, federation, name, federation.clients[name]) for name in sorted(federation.clients)}
    return {**alone, POOLED: _train(single, federation, POOLED, _together(federation.clients))}


def _train(prepared: Prepared, federation: Federation, name: str, columns: Columns) -> dict[str, float]:
    one = Federation({name: columns}, federation.held_out)
    return simulate_on(prepared, one, Engine("eager", "inline")).held_out


def _together(clients: Mapping[str, Columns]) -> Columns:
    parts = [clients[name] for name in sorted(clients)]
    return {column: torch.cat([part[column] for part in parts]) for column in parts[0]}
