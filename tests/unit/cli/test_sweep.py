"""``foedus simulate --sweep --seeds``: a folder per run, a table of settings, failures apart, and going on."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare
from foedus.engine.simulate import simulate

SWEEP = ("--sweep", "strategy.local.lr=0.01,0.1", "--seeds", "2")


def of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return found


def test_each_run_is_what_it_is_alone_and_the_table_is_their_mean(run, here: Path, digits: Path) -> None:
    ran = run("simulate", digits / "run.toml", "--set", "rounds=2", "--kernel", "eager", *SWEEP, "--out", "s", "--json")
    assert ran.code == 0
    data = ran.envelope["data"]
    assert (data["completed"], data["failed"], data["measure"]) == (4, 0, "held_out/accuracy")
    assert of(here / "s") == data
    expected = [
        simulate(
            prepare(digits / "run.toml", {"rounds": "2", "strategy.local.lr": lr, "seed": seed}),
            Engine("eager", "inline"),
        )
        for lr in ("0.01", "0.1")
        for seed in ("1", "2")
    ]
    assert [row["model_digest"] for row in data["runs"]] == [result.model_digest for result in expected]
    for row, results in zip(data["settings"], (expected[:2], expected[2:]), strict=True):
        values = [result.held_out["accuracy"] for result in results]
        found = row["metrics"]["held_out/accuracy"]
        assert found["mean"] == pytest.approx(statistics.fmean(values))
        assert found["deviation"] == pytest.approx(statistics.stdev(values))
    assert sum(row["best"] for row in data["settings"]) == 1
    assert ran.err.count("\nrun ") == 4
    names = {path.name for path in (here / "s").iterdir() if path.is_dir()}
    assert names == {"01-seed1", "01-seed2", "02-seed1", "02-seed2"}
    assert all((here / "s" / name / "report.html").is_file() for name in names)
    assert {"sweep.json", "sweep.csv", "sweep.html"} <= {path.name for path in (here / "s").iterdir()}


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(run, here: Path, digits: Path) -> None:
    words = ("--set", "rounds=1", "--sweep", "cohort.size=9,2", "--out", "s")
    ran = run("simulate", digits / "run.toml", *words)
    assert ran.code == 1
    assert [row["status"] for row in of(here / "s")["runs"]] == ["failed", "completed"]
    assert of(here / "s")["runs"][0]["error"] == "population_too_small"
    assert "population_too_small" in (here / "s" / "01-seed1.log").read_text()
    before = (here / "s" / "02-seed1" / "log.jsonl").read_bytes()
    again = run("simulate", "--resume", "s", "--json")
    assert again.code == 1
    assert "2 runs, 1 of them done" in again.err
    assert (here / "s" / "02-seed1" / "log.jsonl").read_bytes() == before


def test_a_wrong_setting_is_refused_before_any_run(run, here: Path, digits: Path) -> None:
    for option, code in (("strategy.local.lr=0.1,-1", 3), ("strategy.local.lrr=1,2", 3), ("seed=1,2", 2)):
        assert run("simulate", digits / "run.toml", "--sweep", option, "--out", "s").code == code
    assert not (here / "s").exists()


def test_a_sweep_goes_on_with_its_kernel(run, here: Path, digits: Path) -> None:
    words = ("--set", "rounds=1", "--kernel", "graph", "--sweep", "cohort.size=2,9", "--out", "s")
    assert run("simulate", digits / "run.toml", *words).code == 1
    refused = run("simulate", "--resume", "s", "--kernel", "eager", "--json")
    assert (refused.code, refused.envelope["error"]["code"]) == (3, "kernel_recorded")
    (here / "s" / "01-seed1" / "summary.json").unlink()
    assert run("simulate", "--resume", "s").code == 1
    assert json.loads((here / "s" / "01-seed1" / "summary.json").read_text())["kernel"] == "graph"


def test_a_sweep_is_not_replaced(run, here: Path, digits: Path) -> None:
    words = ("simulate", digits / "run.toml", "--set", "rounds=1", "--seeds", "1", "--out", "s")
    assert run(*words).code == 0
    refused = run(*words, "--json")
    assert (refused.code, refused.envelope["error"]["code"]) == (7, "sweep_exists")


def test_a_sweep_whose_plan_was_changed_does_not_go_on(run, here: Path, digits: Path) -> None:
    for name in ("run.toml", "plan.py"):
        (here / name).write_bytes((digits / name).read_bytes())
    assert run("simulate", "run.toml", "--set", "rounds=1", "--seeds", "1", "--out", "s").code == 0
    (here / "plan.py").write_text((here / "plan.py").read_text() + "\n")
    refused = run("simulate", "--resume", "s", "--json")
    assert (refused.code, refused.envelope["error"]["code"]) == (3, "plan_changed")


def test_a_stopped_sweep_leaves_no_process_and_goes_on_where_it_was(run, here: Path, digits: Path) -> None:
    plan = (digits / "plan.py").read_text()
    waits = "    import pathlib, time; pathlib.Path('slow').exists() and time.sleep(0.004)\n    return nn.functional"
    (here / "plan.py").write_text(plan.replace("    return nn.functional", waits, 1))
    (here / "slow").touch()
    (here / "run.toml").write_text((digits / "run.toml").read_text().replace("rounds = 20", "rounds = 6"))
    words = ["simulate", "run.toml", "--kernel", "eager", "--seeds", "3", "--out", "s"]
    with subprocess.Popen(
        [sys.executable, "-m", "foedus", *words], cwd=here, stderr=subprocess.PIPE, text=True
    ) as sweep:
        assert sweep.stderr is not None
        next(line for line in sweep.stderr if line.startswith("run 1/3"))
        children = psutil.Process(sweep.pid).children(recursive=True)
        os.kill(sweep.pid, signal.SIGINT)
        sweep.stderr.read()
    (here / "slow").unlink()
    assert sweep.returncode == 130
    assert not any(child.is_running() for child in children)
    left = [path for path in (here / "s").iterdir() if path.is_dir() and (path / "rounds.jsonl").exists()]
    assert left
    again = run("simulate", "--resume", "s", "--json")
    assert again.code == 0
    assert "3 runs, 1 of them done" in again.err or "3 runs, 2 of them done" in again.err
    whole = [simulate(prepare(here / "run.toml", {"seed": str(seed)}), Engine("eager", "inline")) for seed in (1, 2, 3)]
    assert [row["model_digest"] for row in again.envelope["data"]["runs"]] == [result.model_digest for result in whole]
