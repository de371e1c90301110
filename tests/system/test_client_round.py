"""The round on a node, live: one coordinator and two nodes, each a process of its own, shared by these tests.

What a plan does on nodes alone it does where a variable of this process is missing: a node's environment is clean.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foedus.client import runs
from foedus.domain.errors import ConfigError
from foedus.domain.run import StrategyTable
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate
from foedus.wire.messages import RoundView, RunView
from tests.federation import LocalFederation, start_federation, stop, until
from tests.plans import DIGITS, MARKED, prepared

EAGER = Engine("eager", "inline")
HERE = "FOEDUS_TEST_OF_THE_ROUND"
BOTH = {"ratio": 0.25, "on_global_updates": True, "on_local_updates": True}
DATA: dict[str, Any] = {
    "cohort": {"size": 2},
    "data": {"name": "digits", "tags": ["digits"], "partition": {"name": "dirichlet", "alpha": 1.0, "clients": 2}},
}
CLIENTS = ("c0000", "c0001")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two nodes with a half of the digits each."""
    folder = tmp_path_factory.mktemp("federation")
    os.environ[HERE] = "1"
    try:
        with start_federation(folder, prepared(folder, **DATA)) as running:
            yield running
    finally:
        del os.environ[HERE]


def submitted(federation: LocalFederation, ready: Prepared) -> str:
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    return run


def rounds_of(federation: LocalFederation, run: str) -> tuple[RoundView, ...]:
    with federation.connection() as connection:
        return runs.rounds(connection, run).rounds


def completed(federation: LocalFederation, run: str) -> tuple[RunView, tuple[RoundView, ...]]:
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    return view, rounds_of(federation, run)


def told(phase: Any, metric: str) -> dict[str, float]:
    return {receipt.client: receipt.metrics[metric] for receipt in phase.receipts}


def test_f4_live_rounds_are_measured_before_and_after_on_examples_that_a_restarted_node_keeps(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """F4 and F13: tagged metrics in each round, rounds + 1 global ones, one hold-out; the bits of the simulation."""
    arguments = {
        **{"epochs": 1, "optimizer_args": {"lr": 0.1}, "test_ratio": 0.25, "random_seed": 1},
        **{"test_on_global_updates": True, "test_on_local_updates": True},
    }
    table = {**DATA, "rounds": 10, "strategy": {"name": "fedavg", "local": {}}, "training_args": arguments}
    ready = prepared(tmp_path, MARKED, **table)
    expected = simulate(ready, EAGER)
    run = submitted(federation, ready)
    until("a round is done", lambda: federation.show(run).round >= 1)
    stop(federation.nodes[CLIENTS[0]], signal.SIGKILL)
    assert federation.show(run).round < 10
    federation.start_node(CLIENTS[0])
    view, rounds = completed(federation, run)
    assert view.model_digest == expected.model_digest
    assert [[phase.phase for phase in found.phases] for found in rounds] == [["train"]] * 9 + [["train", "test"]]
    for live, simulated in zip(rounds, expected.rounds, strict=True):
        assert live.metrics == pytest.approx(simulated.metrics, rel=1e-12)
        assert {"train/global.accuracy", "train/local.accuracy"} <= set(live.metrics)
        for receipt in live.phases[0].receipts:
            assert set(receipt.timings) == {"prepare", "before", "work", "after"}
    metrics = [name for found in rounds for name in found.metrics]
    assert metrics.count("train/global.accuracy") + metrics.count("test/accuracy") == len(rounds) + 1
    marks = [told(found.phases[0], name) for found in rounds for name in ("global.mark", "local.mark")]
    marks.append(told(rounds[-1].phases[1], "mark"))
    assert all(mark == marks[0] for mark in marks) and len(set(marks[0].values())) == 2
    with federation.connection() as connection:
        runs.download_model(connection, run, None, federation.folder / "model.safetensors")


def test_f7_h15_a_live_run_that_only_evaluates_changes_no_weight(federation: LocalFederation, tmp_path: Path) -> None:
    """Validation alone: success without parameters, each client's metrics and their mean, the model as it was."""
    shutil.copy(federation.folder / "model.safetensors", tmp_path / "begun.safetensors")
    changes = {"rounds": 1, "training": False, "initial": "begun.safetensors", "test": {"ratio": 1.0}}
    ready = prepared(tmp_path, MARKED, **DATA, **changes)
    expected = simulate(ready, EAGER)
    view, (found,) = completed(federation, submitted(federation, ready))
    assert view.model_digest == expected.model_digest == found.model
    (phase,) = found.phases
    assert (phase.phase, phase.outcome, phase.bytes_up) == ("test", "closed", 0)
    (simulated,) = expected.rounds[0].phases
    for receipt, same in zip(phase.receipts, simulated.receipts, strict=True):
        assert (receipt.failure, receipt.digest, receipt.size) == ("", "", 0)
        assert (receipt.weights, set(receipt.metrics)) == (same.weights, {"loss", "accuracy", "mark"})
        assert receipt.metrics == pytest.approx(same.metrics, rel=1e-12)
    assert found.metrics == pytest.approx(expected.rounds[0].metrics, rel=1e-12)
    assert sum(receipt.weights["examples"] for receipt in phase.receipts) == 1797


def test_f5_live_a_metric_that_fails_is_logged_by_the_node_and_the_round_goes_on(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """And with nothing to test on, a flag warns: no metric, and the round succeeds."""
    failing = DIGITS.replace("return (output.argmax(1)", "raise ValueError('4711')\n    return (output.argmax(1)")
    run = submitted(federation, prepared(tmp_path, failing, **DATA, rounds=1, test=BOTH))
    none = submitted(federation, prepared(tmp_path, MARKED, **DATA, rounds=1, test={**BOTH, "ratio": 0.0}))
    _, (found,) = completed(federation, run)
    assert set(found.metrics) == {"train/loss", "train/global.loss", "train/local.loss", "test/loss"}
    _, (bare,) = completed(federation, none)
    assert set(bare.metrics) == {"train/loss"}
    for said in ("the plan's accuracy failed: ValueError: 4711", "`test.ratio` is 0"):
        for log in [federation.home(client) / "logs" / "work.log" for client in CLIENTS]:
            until(f"{log} has {said}", lambda log=log, said=said: said in log.read_text())


@pytest.mark.parametrize(("key", "value"), [("epoch", 3), ("epochs", "3"), ("num_updates", 1.5)])
def test_f3_live_arguments_are_refused_before_any_node_is_contacted(
    key: str, value: Any, federation: LocalFederation, tmp_path: Path
) -> None:
    """By the researcher's side, and by a coordinator to which somebody sends them all the same."""
    ready = prepared(tmp_path, **DATA)
    wrong = StrategyTable(name="fedavg", local={"lr": 0.1, key: value})
    with pytest.raises(ConfigError, match=f"local.{key}"):
        prepared(tmp_path, **DATA, strategy={"name": "fedavg", "local": {"lr": 0.1, key: value}})
    with federation.connection() as connection:
        before = runs.list_runs(connection)
        with pytest.raises(ConfigError, match=f"local.{key}"):
            federation.submit(replace(ready, spec=ready.spec.model_copy(update={"strategy": wrong})))
        assert runs.list_runs(connection) == before


AWAY = f"""import os

{DIGITS}

def away():
    if {HERE!r} not in os.environ:
        raise ValueError("/secret/4711")

"""
FAILURES: Mapping[str, str] = {
    "plan_does_not_import": "away()",
    "plan_model_failed": "made = model\ndef model():\n    away()\n    return made()",
    "model_refused": f"def model():\n    return nn.Linear(64, 10 if {HERE!r} in os.environ else 11)",
    "prepare_failed": "made = prepare\ndef prepare(columns):\n    away()\n    return made(columns)",
    "column_missing": "def prepare(columns):\n    return columns['4711'], columns['label']",
    "plan_failed": "def loss(output, target):\n    away()\n    return nn.functional.cross_entropy(output, target)",
}
"""What a plan adds to fail on nodes alone, by the code of that step."""


@pytest.mark.soak
def test_f6_live_every_step_that_fails_has_a_code_of_its_own_and_tells_no_path_and_no_value(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """F6: bad plan, parameters and data, an exception in training; arguments and state are the next test's."""
    for code, plan in FAILURES.items():
        (folder := tmp_path / code).mkdir()
        ready = prepared(folder, AWAY + plan + "\n", **{**DATA, "cohort": {"size": 1, "population": 2}}, rounds=1)
        view = federation.finish(submitted(federation, ready))
        assert view.status == "failed" and f"{code}: " in view.reason, view.reason
        assert not any(word in view.reason for word in ("secret", "4711", str(federation.folder)))


def test_f6_live_data_that_are_gone_and_a_state_that_cannot_be_saved_have_codes_of_their_own(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """The last test of the federation: its nodes lose what they need."""
    states, data = federation.home(CLIENTS[0]) / "states", federation.folder / "parts" / f"{CLIENTS[1]}.npz"
    until("the node is up", states.is_dir)
    shutil.rmtree(states)
    states.write_bytes(b"")
    data.unlink()
    view = federation.finish(submitted(federation, prepared(tmp_path, **DATA, rounds=1)))
    assert view.status == "failed"
    assert f"{CLIENTS[0]}: state_not_saved: " in view.reason and f"{CLIENTS[1]}: dataset_unreadable: " in view.reason
    assert str(federation.folder) not in view.reason
