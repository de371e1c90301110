"""Facts that nodes report as they join in decide whom a live run asks, as the virtual devices do in a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foedus.coordinator import nodes, runs
from foedus.coordinator.bells import RUNS
from foedus.coordinator.supervisor import Supervisor
from foedus.engine.choice import Engine
from foedus.engine.simulate import simulate
from foedus.wire.messages import DatasetView, Hello, PlanApproval
from tests.plans import prepared
from tests.unit.coordinator.scene import BOOT, PLAN, Scene

SPEEDS = {"alpha": 3.0, "beta": 200.0, "delta": None, "gamma": 40.0}


def report(scene: Scene, client: str, speed: float | None) -> None:
    dataset = DatasetView(client=client, tags=("digits",), examples=100, speed=speed)
    approval = PlanApproval(digest=PLAN.digest, state="approved")
    hello = Hello(boot=BOOT, version="1", datasets=(dataset,), approvals=(approval,))
    with scene.live.store.transaction("hello") as tx:
        nodes.hello(tx, scene.node_of[client], hello)


def test_a_live_run_asks_the_fastest_by_what_they_reported(tmp_path: Path) -> None:
    cohort = {"size": 2, "population": 4, "selector": "fastest"}
    scene = Scene(tmp_path, 2, 2, {"cohort": cohort, "test": {"ratio": 0.0}})
    for client, speed in SPEEDS.items():
        scene.enrol(client)
        report(scene, client, speed)
    supervisor = Supervisor(scene.live)
    supervisor.start()
    run = scene.submit()
    scene.live.bells.ring(RUNS)
    scene.play(run, tuple(SPEEDS))
    supervisor.stop()
    with scene.live.store.reading() as tx:
        assert [row.phases[0].asked for row in runs.list_rounds(tx, run).rounds] == [("beta", "gamma")] * 2


def test_a_simulation_asks_the_fastest_devices(tmp_path: Path) -> None:
    (tmp_path / "devices.csv").write_text("client,speed\nc0000,5\nc0001,500\nc0002,50\nc0003,\n")
    changes: dict[str, Any] = {"time": {"trace": "devices.csv"}, "cohort": {"size": 2, "selector": "fastest"}}
    result = simulate(prepared(tmp_path, **changes), Engine("eager", "inline"))
    assert [record.phases[0].asked for record in result.rounds] == [("c0001", "c0002")] * 2
