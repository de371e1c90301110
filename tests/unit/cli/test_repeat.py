"""``foedus simulate --repeat``: a run once more, computed as it was, in a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GRAPH = ("--set", "rounds=2", "--kernel", "graph", "--executor", "inline")


@pytest.fixture
def done(run, here: Path, digits: Path) -> Path:
    """A run of two rounds by kernel graph."""
    assert run("simulate", digits / "run.toml", *GRAPH, "--out", "one").code == 0
    return here / "one"


def said(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "environment.json").read_text())


def say(folder: Path, facts: dict[str, Any]) -> None:
    (folder / "environment.json").write_text(json.dumps(facts))


def all_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_is_repeated_to_its_bits_in_a_folder_of_its_own(run, here: Path, done: Path) -> None:
    before = all_in(done)
    again = run("simulate", "--repeat", done, "--executor", "workers", "--workers", "2", "--out", "again", "--json")
    assert again.code == 0
    assert again.envelope["data"]["model_digest"] == json.loads(before["summary.json"])["model_digest"]
    assert (here / "again" / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert said(here / "again")["executor"] == "workers"
    assert all_in(done) == before
    assert run("simulate", "--repeat", here / "again", "--out", "third").code == 0
    assert (here / "third" / "model.safetensors").read_bytes() == before["model.safetensors"]


def test_what_was_recorded_is_repeated_not_what_is_fastest_here(run, here: Path, done: Path) -> None:
    facts = said(done)
    recipe = {**facts["recipe"], "stack": 3, "padded": False}
    say(done, {**facts, "recipe": recipe})
    assert run("simulate", "--repeat", done, "--out", "again").code == 0
    assert said(here / "again")["recipe"] == recipe


def test_a_repetition_that_was_killed_before_it_began_is_still_one(run, here: Path, done: Path) -> None:
    assert run("simulate", "--repeat", done, "--set", "checkpoint.every=0", "--out", "again").code == 0
    again = here / "again"
    facts = said(again)
    chosen = ("kernel", "executor", "workers", "reason", "stack", "recipe")
    say(again, {name: value for name, value in facts.items() if name not in chosen})
    (again / "summary.json").unlink()
    (again / "rounds.jsonl").write_bytes(b"")
    assert run("simulate", "--resume", again).code == 0
    assert said(again)["recipe"] == facts["recipe"]
    assert (again / "model.safetensors").read_bytes() == (done / "model.safetensors").read_bytes()


def test_what_is_no_repetition_is_refused(run, here: Path, done: Path, digits: Path) -> None:
    def refused(*arguments: object) -> tuple[int, str]:
        ran = run("simulate", *arguments, "--json")
        return ran.code, ran.envelope["error"]["code"]

    before = {path.name for path in here.iterdir()}
    assert refused("--repeat", done, "--set", "seed=2") == (3, "resume_refused")
    assert refused("--repeat", done, "--kernel", "eager") == (3, "kernel_recorded")
    assert refused("--repeat", done, "--seeds", "2") == (2, "run_or_folder")
    assert refused("--repeat", done, "--resume", done) == (2, "run_or_folder")
    assert refused("--repeat", done, digits / "run.toml") == (2, "run_or_folder")
    assert refused("--repeat", done, "--out", done) == (7, "run_exists")
    assert refused("--repeat", here / "nowhere")[1] == "run_folder_missing"
    (done / "plan" / "plan.py").write_text("plan = 1\n")
    assert refused("--repeat", done) == (3, "plan_changed")
    assert {path.name for path in here.iterdir()} == before
