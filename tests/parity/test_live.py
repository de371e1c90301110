"""The same plan, live: a real coordinator and four real nodes end with the bits of the simulation.

One federation is shared by all of these; each run has its own plan, approved by every owner.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foedus.client import runs
from foedus.client.recording import recording
from foedus.domain.codec import TensorFile
from foedus.domain.errors import DataError
from foedus.domain.tree import model_digest
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare
from foedus.engine.replay import replay
from foedus.engine.simulate import simulate
from tests.federation import LocalFederation, start_federation, stop, until
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
    "median": (DIGITS, {"strategy": {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": {"name": "median"}}}),
    "trimmed mean": (
        BATCHNORM,
        {"strategy": {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": {"name": "trimmed_mean", "trim": 0.25}}},
    ),
    "a buffer for all": (DIGITS, {"schedule": {"name": "buffered", "buffer": 4}, "rounds": 3}),
    "cyclic": (DIGITS, {"schedule": {"name": "cyclic"}, "cohort": {"size": 1, "population": 4}, "rounds": 5}),
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


REPLAYED: dict[str, dict[str, Any]] = {
    "buffered": {"schedule": {"name": "buffered", "buffer": 2}, "cohort": {"size": 3, "population": 4}, "rounds": 5},
    "buffer of one": {
        "schedule": {"name": "buffered", "buffer": 1, "selector": "round_robin"},
        "strategy": {"name": "fedasync", "local": {"lr": 0.1}},
        "cohort": {"size": 3, "population": 4},
        "rounds": 6,
    },
    "timed": {"schedule": {"name": "timed", "every": 0.7}, "cohort": {"size": 3, "population": 4}, "rounds": 3},
    "over-selection": {"cohort": {"size": 2, "over_selection": 1.5, "population": 4}, "rounds": 3},
}


@pytest.mark.parametrize("changes", REPLAYED.values(), ids=REPLAYED.keys())
def test_the_recorded_events_of_a_live_run_replayed_give_its_digest(
    changes: dict[str, Any], federation: LocalFederation, tmp_path: Path
) -> None:
    """Law 1, with the coordinator killed in the middle of the run."""
    ready = prepared(tmp_path, **changes)
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    until("a round is done", lambda: federation.show(run).round >= 1)
    assert federation.coordinator is not None
    stop(federation.coordinator, signal.SIGKILL)
    federation.start_coordinator()
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    with federation.connection() as connection:
        listed = runs.rounds(connection, run).rounds
        heard = recording(connection, run, view.round)
    replayed = replay(ready, heard, EAGER)
    assert replayed.model_digest == view.model_digest
    assert [record.model for record in replayed.rounds] == [record.model for record in listed]
    for live, again in zip(listed, replayed.rounds, strict=True):
        assert live.metrics == pytest.approx(again.metrics, rel=1e-12)
    with pytest.raises(DataError) as refusal:
        replay(ready, heard[:-1], EAGER)
    assert refusal.value.code == "replay_differs"
    if changes is REPLAYED["buffered"]:
        command = ["run", "replay", run, str(tmp_path), "--coordinator", federation.url, "--token", federation.token]
        shown = subprocess.run(
            [sys.executable, "-m", "foedus", *command],
            env={**os.environ, "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
        )
        assert shown.returncode == 0, shown.stderr
        assert f"5 rounds replayed; every model is the same: {view.model_digest}" in shown.stdout
