"""``foedus simulate --resume``: what may change, what is refused, and more rounds."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

EAGER = ("--kernel", "eager", "--executor", "inline")


@pytest.fixture
def done(run, here: Path, digits: Path) -> Path:
    """A run of two rounds that is complete."""
    assert run("simulate", digits / "run.toml", "--set", "rounds=2", *EAGER, "--out", "one").code == 0
    return here / "one"


def refused(run, *arguments: object) -> tuple[int, str]:
    ran = run("simulate", *arguments, "--json")
    return ran.code, ran.envelope["error"]["code"]


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_a_complete_run_goes_on_only_for_more_rounds(run, done: Path, digits: Path) -> None:
    assert refused(run, "--resume", done) == (7, "run_complete")
    longer = run("simulate", "--resume", done, "--set", "rounds=4", "--json")
    assert longer.code == 0
    assert "going on after round 2" in longer.err
    whole = run("simulate", digits / "run.toml", "--set", "rounds=4", *EAGER, "--out", "whole", "--json")
    assert longer.envelope["data"]["model_digest"] == whole.envelope["data"]["model_digest"]
    assert [line["model"] for line in rounds_of(done)] == [line["model"] for line in rounds_of(done.parent / "whole")]
    assert refused(run, "--resume", done) == (7, "run_complete")
    assert refused(run, "--resume", done, "--set", "rounds=3") == (3, "resume_refused")


def test_the_summary_and_the_report_are_those_of_the_whole_run(run, done: Path) -> None:
    data = run("simulate", "--resume", done, "--set", "rounds=3", "--json").envelope["data"]
    assert data["rounds"] == 3
    assert data["run"] == "digits"
    assert json.loads((done / "summary.json").read_text()) == data
    events = [json.loads(line)["event"] for line in (done / "log.jsonl").read_text().splitlines()]
    assert events.count("started") == events.count("resumed") == 1


@pytest.mark.parametrize(
    "change", ["seed=2", "strategy.local.lr=0.2", "cohort.size=3", "data.name=wine", "test.every=2"]
)
def test_what_the_done_rounds_depend_on_cannot_change(run, done: Path, change: str) -> None:
    before = (done / "rounds.jsonl").read_bytes()
    assert refused(run, "--resume", done, "--set", "rounds=4", "--set", change) == (3, "resume_refused")
    assert (done / "rounds.jsonl").read_bytes() == before


def test_what_they_do_not_depend_on_may(run, done: Path) -> None:
    changes = ("--set", "rounds=3", "--set", "checkpoint.every=1", "--set", "data.cache=7")
    assert run("simulate", "--resume", done, *changes, "--executor", "workers", "--workers", "2").code == 0


def test_a_plan_or_a_run_toml_that_was_changed_is_refused(run, done: Path) -> None:
    plan, run_toml = done / "plan" / "plan.py", done / "run.toml"
    kept = plan.read_bytes()
    plan.write_bytes(kept + b"\n")
    assert refused(run, "--resume", done, "--set", "rounds=4") == (3, "plan_changed")
    plan.write_bytes(kept)
    run_toml.write_text(run_toml.read_text().replace("0.1", "0.2"))
    assert refused(run, "--resume", done, "--set", "rounds=4") == (7, "run_changed")


def test_another_kernel_is_refused_with_nothing_lost(run, done: Path) -> None:
    assert refused(run, "--resume", done, "--set", "rounds=4", "--kernel", "graph") == (3, "kernel_recorded")
    assert json.loads((done / "summary.json").read_text())["rounds"] == 2


def test_killed_while_run_toml_was_changed_it_goes_on_with_either(run, done: Path) -> None:
    def said(name: str) -> bytes:
        return (done / name).read_bytes()

    before = said("run.toml")
    assert run("simulate", "--resume", done, "--set", "rounds=3").code == 0
    after, facts = said("run.toml"), json.loads(said("environment.json"))
    between = {**facts, "run": hashlib.sha256(before).hexdigest(), "next": facts["run"]}
    for kept, rounds in ((before, "4"), (after, "5")):
        (done / "run.toml").write_bytes(kept)
        (done / "environment.json").write_text(json.dumps(between))
        assert run("simulate", "--resume", done, "--set", f"rounds={rounds}", "--json").envelope["data"]["rounds"] > 3
        assert "next" not in json.loads(said("environment.json"))


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(run, here: Path, digits: Path, done: Path) -> None:
    settings = ("--set", "rounds=3", "--set", "checkpoint.every=1", *EAGER)
    whole = run("simulate", digits / "run.toml", *settings, "--out", "two", "--json").envelope["data"]
    (here / "two" / "summary.json").unlink()
    (here / "two" / "checkpoints" / "000003" / "strategy.safetensors").write_bytes(b"")
    ran = run("simulate", "--resume", "two", "--json")
    assert "The checkpoint after round 3 is not used" in ran.err
    assert "going on after round 2" in ran.err
    assert ran.envelope["data"]["model_digest"] == whole["model_digest"]


def test_a_run_without_a_checkpoint_begins_anew(run, here: Path, digits: Path) -> None:
    settings = ("--set", "rounds=2", "--set", "checkpoint.every=0", *EAGER)
    whole = run("simulate", digits / "run.toml", *settings, "--out", "two", "--json").envelope["data"]
    assert not (here / "two" / "checkpoints").exists()
    assert refused(run, "--resume", "two", "--set", "rounds=3") == (7, "run_complete")
    (here / "two" / "summary.json").unlink()
    ran = run("simulate", "--resume", "two", "--json")
    assert "beginning with the first" in ran.err
    assert ran.envelope["data"]["model_digest"] == whole["model_digest"]
    assert len(rounds_of(here / "two")) == 2


def test_a_folder_goes_on_elsewhere(run, here: Path, digits: Path, done: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other" / "place"
    shutil.copytree(done, elsewhere)
    shutil.rmtree(done)
    facts = json.loads((elsewhere / "environment.json").read_text())
    (elsewhere / "environment.json").write_text(json.dumps({**facts, "base": "/not/here"}))
    assert run("simulate", "--resume", elsewhere, "--set", "rounds=3").code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), (2, "run_or_folder")),
        (("run.toml", "--resume", "one"), (2, "run_or_folder")),
        (("--resume", "one", "--out", "two"), (2, "run_or_folder")),
        (("--resume", "nowhere"), (6, "run_folder_missing")),
    ],
)
def test_what_cannot_be_meant_is_refused(run, done: Path, arguments: tuple[str, ...], code: tuple[int, str]) -> None:
    assert refused(run, *arguments) == code


def test_asks_that_are_out_go_on_too(run, here: Path, digits: Path) -> None:
    fedbuff = digits.parent / "fedbuff" / "run.toml"
    settings = ("--set", "checkpoint.every=1", "--set", "checkpoint.keep=9", *EAGER)
    whole = run("simulate", fedbuff, "--set", "rounds=7", *settings, "--out", "whole", "--json").envelope["data"]
    assert run("simulate", fedbuff, "--set", "rounds=4", *settings, "--out", "part").code == 0
    port = here / "part" / "checkpoints" / "000004" / "port.safetensors"
    assert port.stat().st_size > 1000
    later = run("simulate", "--resume", "part", "--set", "rounds=7", "--json").envelope["data"]
    assert later["model_digest"] == whole["model_digest"]
    clocks = [[line["virtual_time"] for line in rounds_of(here / name)] for name in ("whole", "part")]
    assert clocks[0] == clocks[1]


def test_a_run_that_stopped_early_is_complete(run, here: Path, digits: Path) -> None:
    stop = ("--set", "stop.metric=train/loss", "--set", "stop.target=1.5", "--set", "rounds=9", *EAGER)
    data = run("simulate", digits / "run.toml", *stop, "--out", "early", "--json").envelope["data"]
    assert data["rounds"] < 9
    assert refused(run, "--resume", "early", "--set", "rounds=20") == (7, "run_complete")


def test_a_run_without_a_checkpoint_keeps_the_kernel_that_was_chosen(run, here: Path, digits: Path) -> None:
    settings = ("--set", "rounds=1", "--set", "checkpoint.every=0", "--kernel", "graph")
    assert run("simulate", digits / "run.toml", *settings, "--out", "two").code == 0
    (here / "two" / "summary.json").unlink()
    assert run("simulate", "--resume", "two", "--json").envelope["data"]["kernel"] == "graph"
