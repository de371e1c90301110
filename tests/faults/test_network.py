"""Real processes over wires that fail: connections are reset, slow, half-open and narrow, and messages come twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate
from foedus.node.owner import identity
from foedus.node.vault import Vault
from foedus.store.artifacts import open_artifacts
from foedus.store.unit_of_work import Store
from tests.cluster.laws import Laws
from tests.federation import LocalFederation, parts_of
from tests.plans import DIGITS, prepared
from tests.proxy import Proxy, Trouble, proxied

DATA = {"name": "digits", "tags": ["digits"], "partition": {"name": "iid", "clients": 2}}
WIDE = DIGITS.replace(
    "nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)", "nn.Linear(64, 160), nn.ReLU(), nn.Linear(160, 10)"
)
"""A model of about 48 kB: some seconds on a narrow link."""
STORM = {"reset": 0.3, "twice": 0.1, "stall": 0.05, "pause": 2.0}
"""Three of ten connections are reset; some stall, and some requests come twice."""


def _start(federation: LocalFederation, proxy: Proxy, ready: Prepared) -> None:
    """Nodes that know the coordinator by the proxy's address."""
    for client, part in parts_of(ready, federation.folder / "parts").items():
        federation.enrol(client, part)
        with Vault(federation.home(client)) as vault:
            vault.joined(str(identity(federation.home(client)).node), f"http://127.0.0.1:{proxy.port}")
        federation.start_node(client)


def _hold_the_laws(federation: LocalFederation) -> None:
    folder = federation.folder / "coordinator"
    store = Store(f"sqlite:///{folder / 'coordinator.db'}")
    Laws().check(store, open_artifacts(folder))
    store.close()


def _completes(folder: Path, trouble: Trouble, seconds: float, rounds: int = 1) -> Proxy:
    """A run whose nodes are behind a proxy; it has to end with the simulation's digest."""
    ready = prepared(folder, WIDE, data=DATA, cohort={"size": 2, "minimum": 2}, rounds=rounds)
    with LocalFederation(folder) as federation, proxied(federation.port, 20, trouble) as proxy:
        federation.start_coordinator(FOEDUS_COORDINATOR_INLINE="0")  # small as they are, updates come as large ones do
        _start(federation, proxy, ready)
        run = federation.submit(ready)
        federation.approve_all(ready.bundle.digest)
        view = federation.finish(run, seconds)
        _hold_the_laws(federation)
    assert (view.status, view.model_digest) == ("completed", simulate(ready, Engine("eager", "inline")).model_digest)
    return proxy


def test_a_run_ends_the_same_over_connections_that_are_reset_and_requests_that_come_twice(tmp_path: Path) -> None:
    proxy = _completes(tmp_path, Trouble(latency=0.02, **STORM), 400)
    assert proxy.tally.resets and proxy.tally.passed > 100_000


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_case_20_resets_latency_half_open_sockets_and_a_narrow_link(tmp_path: Path) -> None:
    """Case 20: 30 % resets, 2 s latency, half-open sockets, 64 kbit/s: the job completes, and bytes are resumed."""
    proxy = _completes(tmp_path, Trouble(latency=2.0, rate=8000, half_open=0.1, within=10_000, **STORM), 1500, rounds=3)
    print(f"\ncase 20: {proxy.tally}")
    assert proxy.tally.resets and proxy.tally.half_open and proxy.tally.resumed
