"""The same plan, live: a real coordinator and four real nodes end with the bits of the simulation.

One federation is shared by all of these; each run has its own plan, approved by every owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foedus.client import runs
from foedus.domain.codec import TensorFile
from foedus.domain.tree import model_digest
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare
from foedus.engine.simulate import simulate
from tests.federation import LocalFederation, start_federation
from tests.plans import BATCHNORM, DIGITS, DROPOUT, FROZEN, SERVERS, prepared

EAGER = Engine("eager", "inline")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"fedavg-{name}": (DIGITS, {"strategy": {"name": "fedavg", "local": {"lr": 0.1}, "server": server}})
       for name, server in SERVERS.items()},
    "batchnorm": (BATCHNORM, {}),
    "dropout": (DROPOUT, {}),
    "frozen": (FROZEN, {}),
    "momentum, two epochs": (
        DIGITS,
        {"strategy": {"name": "fedavg", "local": {"lr": 0.05, "momentum": 0.9, "epochs": 2, "weight_decay": 0.01}}},
    ),
    "part of the population": (DIGITS, {"cohort": {"size": 2, "population": 4}, "rounds": 4}),
    "rare tests": (DIGITS, {"test": {"every": 2, "ratio": 0.3}, "rounds": 3}),
    "validation": (DIGITS, {"test": {"every": 2, "ratio": 0.1, "validation": 0.3}, "rounds": 3}),
}  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Four nodes with the four parts of the digits example."""
    folder = tmp_path_factory.mktemp("federation")
    with start_federation(folder, prepare(Path("examples/digits/run.toml"))) as running:
        yield running


@pytest.mark.parametrize(("plan", "changes"), CASES.values(), ids=CASES.keys())
def test_live_gives_the_bits_of_the_simulation(
    plan: str, changes: dict[str, Any], federation: LocalFederation, tmp_path: Path
) -> None:
    ready = prepared(tmp_path, plan, **changes)
    expected = simulate(ready, EAGER)
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    assert view.model_digest == expected.model_digest
    with federation.connection() as connection:
        listed = runs.rounds(connection, run).rounds
        runs.download_model(connection, run, None, tmp_path / "model.safetensors")
        runs.download_model(connection, run, 1, tmp_path / "first.safetensors")
    assert [record.model for record in listed] == [record.model for record in expected.rounds]
    for live, simulated in zip(listed, expected.rounds, strict=True):
        assert [phase.asked for phase in live.phases] == [phase.asked for phase in simulated.phases]
        assert live.metrics == pytest.approx(simulated.metrics, rel=1e-12)
    with TensorFile(tmp_path / "model.safetensors") as model, TensorFile(tmp_path / "first.safetensors") as first:
        assert model_digest(dict(model)) == expected.model_digest
        assert model_digest(dict(first)) == expected.rounds[0].model


def test_the_digits_example_gives_its_digest_live(federation: LocalFederation) -> None:
    ready = prepare(Path("examples/digits/run.toml"))
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    assert federation.finish(run).model_digest == simulate(ready, EAGER).model_digest
