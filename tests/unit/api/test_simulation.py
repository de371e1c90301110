"""``foedus.simulate`` from Python: files or objects in, a result out, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

import foedus
from foedus.domain.errors import ConfigError, ConflictError, PlanError, UsageError
from foedus.domain.rng import seed_all
from foedus.engine.choice import Engine
from foedus.engine.folder import FILES
from foedus.engine.prepare import prepare
from foedus.engine.simulate import simulate
from tests.plans import table

DIGITS = Path("examples/digits/run.toml")
HOW: dict[str, Any] = {"kernel": "eager", "executor": "inline", "progress": False}
RUN = {
    "rounds": 3,
    "strategy": {"name": "fedavg", "local": {"lr": 0.1, "batch_size": 4}},
    "cohort": {"size": 2},
}


def linear_plan() -> Any:
    def error(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().mean()

    return foedus.plan(
        model=lambda: nn.Linear(3, 1),
        loss=nn.functional.mse_loss,
        prepare=lambda columns: (columns["x"], columns["y"]),
        metrics={"error": error},
        directions={"error": "min"},
    )


def linear_data(clients: int = 3, rows: int = 12) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    xs = {f"hospital-{at}": torch.randn(rows, 3, generator=generator) for at in range(clients)}
    return {name: {"x": x, "y": x.sum(1, keepdim=True)} for name, x in xs.items()}


def test_importing_foedus_loads_nothing_heavy() -> None:
    code = (
        "import sys, foedus; assert foedus.__version__; assert 'simulate' in dir(foedus);"
        "print([name for name in ('torch', 'numpy', 'pandas', 'matplotlib', 'pydantic') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(foedus, name) is not None for name in foedus.__all__)
    with pytest.raises(AttributeError, match="simulte"):
        foedus.simulte  # noqa: B018


def test_it_is_the_command_line_s_simulation_bit_for_bit() -> None:
    result = foedus.simulate(DIGITS, {"rounds": "2"}, **HOW)
    other = simulate(prepare(DIGITS, {"rounds": "2"}), Engine("eager", "inline"))
    assert result.model_digest == other.model_digest == result.rounds[-1].model
    assert result.held_out == other.held_out
    assert result.metrics["held_out/accuracy"] == other.held_out["accuracy"]
    assert (result.name, len(result.rounds)) == ("digits", 2)


def test_a_run_may_be_a_table_or_a_spec_and_overrides_values_or_text() -> None:
    folder = DIGITS.parent
    run = {**table(plan=str(folder / "plan.py")), "rounds": 1}
    digest = foedus.simulate(run, **HOW).model_digest
    spec = foedus.simulate(run, {"strategy.local.lr": 0.05}, **HOW).spec
    assert foedus.simulate(spec, {"strategy.local.lr": "0.1"}, **HOW).model_digest == digest
    assert foedus.simulate(spec, **HOW).model_digest != digest


def test_a_plan_and_data_may_be_python_objects() -> None:
    result = foedus.simulate(RUN, plan=linear_plan(), data=linear_data(), **HOW)
    assert {client for record in result.rounds for client in record.phases[0].asked} <= linear_data().keys()
    assert result.metrics["test/error"] < result.rounds[0].metrics["test/error"]
    assert result.held_out == {}


def test_a_federation_brings_its_held_out_part() -> None:
    data = foedus.federation(linear_data(), held_out=linear_data(1)["hospital-0"])
    result = foedus.simulate(RUN, {"test.central_every": 2}, plan=linear_plan(), data=data, **HOW)
    assert [set(record.central) for record in result.rounds] == [set(), {"loss", "error"}, set()]
    assert set(result.held_out) == {"loss", "error"}


def test_a_function_makes_clients_by_the_thousand() -> None:
    def client(place: int) -> dict[str, Tensor]:
        x = torch.full((5, 3), float(place % 3))
        return {"x": x, "y": x.sum(1, keepdim=True)}

    result = foedus.simulate(RUN, plan=linear_plan(), data=foedus.Generated(100_000, client), **HOW)
    assert len(result.rounds) == 3


def test_a_plan_that_lacks_something_is_refused() -> None:
    with pytest.raises(PlanError) as refused:
        foedus.plan(nn.Linear, nn.functional.mse_loss, prepare=None)  # type: ignore[arg-type]
    assert refused.value.code == "plan_incomplete"


def test_a_model_is_no_plan() -> None:
    with pytest.raises(UsageError, match=r"foedus\.plan") as refused:
        foedus.simulate(RUN, plan=nn.Linear(3, 1), data=linear_data(), **HOW)  # type: ignore[arg-type]
    assert refused.value.code == "plan_refused"


@pytest.mark.parametrize("run", [None, 3, ["run.toml"]])
def test_what_is_no_run_is_refused(run: Any) -> None:
    with pytest.raises(UsageError) as refused:
        foedus.simulate(run)
    assert refused.value.code == "run_refused"


def test_a_typo_names_the_nearest_key() -> None:
    with pytest.raises(ConfigError, match="rounds"):
        foedus.simulate(DIGITS, {"rouns": 2})


def test_central_evaluation_needs_a_held_out_part() -> None:
    with pytest.raises(ConfigError) as refused:
        foedus.simulate(RUN, {"test.central_every": 1}, plan=linear_plan(), data=linear_data(), **HOW)
    assert refused.value.code == "central_refused"


def test_it_runs_inside_an_event_loop() -> None:
    async def cell() -> foedus.Result:
        return foedus.simulate(RUN, plan=linear_plan(), data=linear_data(), **HOW)

    assert len(asyncio.run(cell()).rounds) == 3


def test_threads_and_random_numbers_are_the_caller_s() -> None:
    def drawn() -> list[object]:
        return [torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()]

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seed_all(5)
        wanted = drawn()
        seed_all(5)
        foedus.simulate(RUN, plan=linear_plan(), data=linear_data(), **HOW)
        assert drawn() == wanted
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_progress_is_a_few_lines_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    foedus.simulate(RUN, {"rounds": 45}, plan=linear_plan(), data=linear_data(), **{**HOW, "progress": True})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/45", *(f"{n}/45" for n in range(2, 45, 2)), "45/45"]
    foedus.simulate(RUN, plan=linear_plan(), data=linear_data(), **HOW)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_with_out_the_run_is_recorded(tmp_path: Path) -> None:
    result = foedus.simulate(DIGITS, {"rounds": 2}, out=tmp_path / "run", **HOW)
    assert result.folder == tmp_path / "run"
    assert set(FILES) <= {path.name for path in result.folder.iterdir()}
    summary = json.loads((result.folder / "summary.json").read_text())
    assert (summary["status"], summary["model_digest"]) == ("completed", result.model_digest)
    with pytest.raises(ConflictError):
        foedus.simulate(DIGITS, {"rounds": 2}, out=tmp_path / "run", **HOW)


def test_an_interruption_is_recorded_and_raised(tmp_path: Path) -> None:
    calls = []

    def prepare(columns: Any) -> tuple[Tensor, Tensor]:
        calls.append(columns)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return columns["x"], columns["y"]

    plan = foedus.plan(lambda: nn.Linear(3, 1), nn.functional.mse_loss, prepare)
    with pytest.raises(KeyboardInterrupt):
        foedus.simulate(RUN, plan=plan, data=linear_data(), out=tmp_path / "run", **HOW)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


def test_a_run_that_stops_early_says_so(tmp_path: Path) -> None:
    stop = {"stop.metric": "test/error", "stop.target": 1e9}
    result = foedus.simulate(RUN, stop, plan=linear_plan(), data=linear_data(), out=tmp_path / "run", **HOW)
    assert len(result.rounds) == 1
    assert "target" in result.stopped
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["stopped"]) == ("completed", result.stopped)
    assert result.stopped in (tmp_path / "run" / "report.html").read_text()


ENDLESS = """
import foedus

if __name__ == "__main__":
    foedus.simulate("examples/digits/run.toml", {"rounds": 100_000}, executor="workers", workers=2, kernel="eager")
"""


def test_ctrl_c_ends_it_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text(ENDLESS)
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("round 1/")
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=240)
    assert process.returncode != 0
    assert told.strip().endswith("KeyboardInterrupt")
    assert len(workers) >= 2
    assert psutil.wait_procs(workers, timeout=120)[1] == []
