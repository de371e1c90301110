"""``foedus simulate``: its result, its folder, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foedus.cli import simulation as module
from foedus.domain.plan import read_bundle
from foedus.engine.choice import Engine
from foedus.engine.folder import CHECKPOINTS, FILES, PLAN
from foedus.engine.prepare import prepare
from foedus.engine.simulate import simulate


def test_its_result_is_the_simulation_s(run, here: Path, digits: Path) -> None:
    ran = run(
        "simulate", digits / "run.toml", "--set", "rounds=2", "--kernel", "eager", "--executor", "inline", "--json"
    )
    data = ran.envelope["data"]
    wanted = {"run", "rounds", "metrics", "model_digest", "seconds", "folder", "kernel", "executor"}
    assert wanted <= data.keys()
    assert (data["run"], data["rounds"], data["kernel"], data["executor"]) == ("digits", 2, "eager", "inline")
    result = simulate(prepare(digits / "run.toml", {"rounds": "2"}), Engine("eager", "inline"))
    assert data["model_digest"] == result.model_digest
    assert data["metrics"]["held_out/accuracy"] == result.held_out["accuracy"]
    assert data["metrics"]["test/accuracy"] == result.rounds[-1].metrics["test/accuracy"]
    assert ran.err.count("round ") == 2


def test_its_folder_is_whole(run, here: Path, digits: Path) -> None:
    data = run("simulate", digits / "run.toml", "--set", "rounds=1", "--json").envelope["data"]
    folder = here / data["folder"]
    assert folder.parent == here / "runs"
    assert folder.name.startswith("digits-")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, PLAN, CHECKPOINTS])
    assert (folder / "plan" / "plan.py").read_bytes() == (digits / "plan.py").read_bytes()
    assert json.loads((folder / "environment.json").read_text())["plan"] == read_bundle(digits / "plan.py").digest
    assert json.loads((folder / "summary.json").read_text())["model_digest"] == data["model_digest"]
    assert json.loads((folder / "environment.json").read_text())["kernel"] == data["kernel"]


def test_a_folder_stands_for_the_run_toml_in_it(run, here: Path, digits: Path) -> None:
    (here / "home").mkdir()
    (here / "home" / "plan.py").write_bytes((digits / "plan.py").read_bytes())
    (here / "home" / "rows.csv").write_text("image,label\n" + "1,0\n2,1\n" * 8)
    text = (digits / "run.toml").read_text().replace('name      = "digits"', 'name = "csv"\nfile = "rows.csv"')
    (here / "home" / "run.toml").write_text(text)
    assert run("data", "partition", "home", "--json").envelope["data"]["population"] == 4
    done = run("simulate", digits, "--set", "rounds=1", "--json").envelope["data"]
    assert done["run"] == "digits"


def test_a_run_can_be_run_again_from_its_folder(run, here: Path, digits: Path) -> None:
    first = run("simulate", digits / "run.toml", "--set", "rounds=1", "--out", "one", "--json").envelope["data"]
    second = run("simulate", "one/run.toml", "--out", "two", "--json").envelope["data"]
    assert first["model_digest"] == second["model_digest"]


def test_an_earlier_run_is_replaced_only_by_force(run, here: Path, digits: Path) -> None:
    assert run("simulate", digits / "run.toml", "--set", "rounds=2", "--out", "one").code == 0
    refused = run("simulate", digits / "run.toml", "--set", "rounds=1", "--out", "one", "--json")
    assert (refused.code, refused.envelope["error"]["code"]) == (7, "run_exists")
    assert "--resume" in refused.envelope["error"]["fix"]
    assert len((here / "one" / "rounds.jsonl").read_text().splitlines()) == 2
    assert run("simulate", digits / "run.toml", "--set", "rounds=1", "--out", "one", "--force").code == 0
    assert len((here / "one" / "rounds.jsonl").read_text().splitlines()) == 1


def test_a_folder_in_use_is_refused_and_left_alone(run, here: Path, digits: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "run.toml").write_text("precious")
    ran = run("simulate", digits / "run.toml", "--out", "mine", "--json")
    assert ran.code == 7
    assert ran.envelope["error"]["code"] == "folder_in_use"
    assert (here / "mine" / "run.toml").read_text() == "precious"


@pytest.mark.parametrize(
    ("override", "code", "named"),
    [
        ("rouns=2", "config_refused", "rounds"),
        ("rounds=many", "config_refused", "rounds"),
        ("strategy.name=fedavgg", "strategy_unknown", "fedavg"),
        ("data.name=digitz", "dataset_unknown", "digits"),
        ("plan=missing.py", "plan_missing", "missing.py"),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(run, here: Path, digits: Path, override, code, named) -> None:
    ran = run("simulate", digits / "run.toml", "--set", override, "--json")
    assert ran.code == 3
    assert ran.envelope["error"]["code"] == code
    assert named in ran.envelope["error"]["message"]


def test_an_override_without_a_value_is_a_usage_error(run, here: Path, digits: Path) -> None:
    ran = run("simulate", digits / "run.toml", "--set", "rounds", "--json")
    assert (ran.code, ran.envelope["error"]["code"]) == (2, "override_malformed")


def test_ctrl_c_leaves_a_folder_that_says_so(run, here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(prepared, engine, observers, *others):
        def second_round(record) -> None:
            raise KeyboardInterrupt

        simulate(prepared, engine, [observers[0], type("Late", (), {"round": staticmethod(second_round)})()])

    monkeypatch.setattr(module, "simulate", interrupted)
    assert run("simulate", digits / "run.toml", "--out", "one").code == 130
    summary = json.loads((here / "one" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["error"]) == ("interrupted", 1, "interrupted")
    assert (here / "one" / "report.html").is_file()


def test_a_profile_is_shown_and_in_the_summary(run, here: Path, digits: Path) -> None:
    ran = run("simulate", digits / "run.toml", "--set", "rounds=2", "--profile", "--json")
    spent = ran.envelope["data"]["profile"]["seconds"]
    assert {"train", "fold", "step", "digest", "observers"} <= spent.keys()
    assert [line.split()[0] for line in ran.err.splitlines() if line.startswith(("train ", "fold "))] == [
        "train",
        "fold",
    ]
    assert "profile" not in run("simulate", digits / "run.toml", "--set", "rounds=1", "--json").envelope["data"]


def test_debug_says_what_a_failing_client_was_doing(run, here: Path, digits: Path) -> None:
    text = (digits / "plan.py").read_text()
    (here / "plan.py").write_text(
        text.replace("    return nn.functional", "    assert len(target) == 10\n    return nn.functional")
    )
    (here / "run.toml").write_bytes((digits / "run.toml").read_bytes())
    ran = run("simulate", "run.toml", "--set", "test.ratio=0.0", "--debug", "--out", "one")
    assert ran.code == 9
    assert "in loss: assert len(target) == 10" in ran.err
    attempts = [json.loads(line) for line in (here / "one" / "log.jsonl").read_text().splitlines()]
    abandoned = [line for line in attempts if line["event"] == "abandoned"]
    assert [(line["round"], line["phase"], line["attempt"]) for line in abandoned] == [
        (1, "train", at) for at in range(3)
    ]
    assert all("plan_failed" in failure for failure in abandoned[0]["failures"].values())
    assert ran.err.count("debug: ") == len({f for line in abandoned for f in line["failures"]}), "each client once"
    assert "failed alike" in ran.err


def test_who_failed_and_the_virtual_clock_stand_in_the_lines_and_in_the_summary(run, here: Path, digits: Path) -> None:
    text = (digits / "plan.py").read_text()
    (here / "plan.py").write_text(
        text.replace(
            "    return nn.functional",
            "    output = output * torch.where(target[0] == 3, torch.nan, 1.0)\n    return nn.functional",
        )
    )
    (here / "run.toml").write_text((digits / "run.toml").read_text() + "\n[time]\nspeed = 100.0\n")
    ran = run("simulate", "run.toml", "--set", "rounds=2", "--set", "cohort.minimum=1", "--kernel", "eager", "--json")
    summary = ran.envelope["data"]
    assert summary["virtual_seconds"] > 0
    assert ran.err.splitlines()[0].count("clock ") == 1
    assert summary["failures"] and all(" in round " in line for line in summary["failures"])
