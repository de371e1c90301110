"""The example of four hospitals: FLamby's figures, and a live federation that gives the simulation's bytes."""

from __future__ import annotations

import runpy
import shutil
import statistics
from pathlib import Path

import pytest

from foedus.client import runs
from foedus.data.loading_plan import digest, read_loading_plan
from foedus.domain.round import PhaseRecord
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare
from foedus.engine.simulate import Result, simulate
from foedus.node.datasets import Terms
from tests.federation import LocalFederation

EXAMPLE = Path("examples/hospitals")
SITES = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
"""Patients to train on and to test on."""

EAGER = Engine("eager", "inline")


@pytest.fixture(scope="module")
def hospitals(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each hospital's table with its split, and its loading plan, made as the guide makes them."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("hospitals")
    split = runpy.run_path(str(EXAMPLE / "split.py"))["split"]
    for site in SITES:
        split(data_folder / "heart-disease-4site" / f"processed.{site}.data", folder / f"{site}.csv")
        shutil.copy(EXAMPLE / "loading" / f"{site}.toml", folder)
    return folder


def _simulated(hospitals: Path, **changes: str) -> Result:
    return simulate(prepare(EXAMPLE, {"data.folder": str(hospitals.resolve()), **changes}), EAGER)


def _tested(result: Result) -> PhaseRecord:
    return next(phase for phase in result.rounds[-1].phases if phase.phase == "test")


def test_the_published_figures_of_fed_heart_disease_are_met(hospitals: Path) -> None:
    """FedAvg: mean accuracy over hospitals 0.685, over all patients 0.748, each within 0.04, over five seeds."""
    means, pooled = [], []
    for seed in range(5):
        tested = _tested(_simulated(hospitals, seed=str(seed)))
        counts = {receipt.client: int(receipt.weights["examples"]) for receipt in tested.receipts}
        assert counts == {site: rows[1] for site, rows in SITES.items()}
        means.append(statistics.mean(receipt.metrics["accuracy"] for receipt in tested.receipts))
        pooled.append(tested.metrics["accuracy"])
    assert statistics.mean(means) == pytest.approx(0.685, abs=0.04), means
    assert statistics.mean(pooled) == pytest.approx(0.748, abs=0.04), pooled


@pytest.mark.soak
def test_four_live_hospitals_give_the_bytes_of_the_simulation(hospitals: Path, tmp_path: Path) -> None:
    ready = prepare(EXAMPLE, {"data.folder": str(hospitals.resolve()), "rounds": "3", "test.every": "3"})
    expected = simulate(ready, EAGER)
    with LocalFederation(tmp_path) as federation:
        federation.start_coordinator()
        for site in SITES:
            terms = Terms(loading=str(hospitals / f"{site}.toml"))
            federation.enrol(site, hospitals / f"{site}.csv", ("heart",), terms)
            federation.start_node(site)
        run = federation.submit(ready)
        federation.approve_all(ready.bundle.digest)
        view = federation.finish(run)
        assert (view.status, view.reason) == ("completed", "")
        assert view.model_digest == expected.model_digest
        with federation.connection() as connection:
            listed = runs.rounds(connection, run).rounds
    named = {}
    for site in SITES:
        plan = read_loading_plan(hospitals / f"{site}.toml")
        named[site] = f"{plan.name}:{digest(plan)}"
    assert [[phase.phase for phase in record.phases] for record in listed] == [["train"], ["train"], ["train", "test"]]
    for record in listed:
        for phase in record.phases:
            assert {receipt.client: receipt.loading for receipt in phase.receipts} == named
            column = 1 if phase.phase == "test" else 0
            counts = {receipt.client: receipt.weights["examples"] for receipt in phase.receipts}
            assert counts == {site: rows[column] for site, rows in SITES.items()}
