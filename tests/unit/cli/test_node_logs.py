"""A node's log: its end, what comes to it, and files that go round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foedus.cli.node_service import LOG
from foedus.node.vault import Vault, create_home
from tests.federation import spawn, until


@pytest.fixture
def log(tmp_path: Path) -> Path:
    create_home(tmp_path / "home", "clinic-a")
    path = tmp_path / "home" / LOG
    path.parent.mkdir()
    return path


def test_the_end_of_the_log_reaches_into_the_file_before(run, log: Path) -> None:
    home = log.parents[1]
    assert run("node", "logs", "--home", home).out.strip() == "Nothing was logged yet."
    log.with_name(log.name + ".1").write_text("one\ntwo\n")
    log.write_text("three\n\x1b[2Jfour\n")
    assert run("node", "logs", "--home", home, "--lines", 3).out == "two\nthree\n?[2Jfour\n"
    told = run("node", "logs", "--home", home, "--lines", 1, "--json").envelope
    assert told["data"]["lines"] == ["\x1b[2Jfour"]
    assert "Nothing" in run("node", "logs", "--home", home, "--work").out


def test_history_of_a_run_reaches_back_behind_whatever_others_did_since(run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    create_home(home, "clinic-a")
    with Vault(home) as vault:
        for asked in ("r_1", *["r_2"] * 30):
            facts = {"run": asked, "round": 1, "phase": "train", "outcome": "contributed"}
            vault.record("round_ended", asked, "it ended", **facts)
    for words, found in ((("--run", "r_1"), ["r_1"]), ((), ["r_2"] * 2)):
        told = run("node", "history", "--home", home, "--last", 2, *words, "--json").envelope
        assert [each["run"] for each in told["data"]["work"]] == found


def test_who_follows_sees_what_comes_also_after_the_log_went_on_in_another_file(log: Path, tmp_path: Path) -> None:
    log.write_text("old\n")
    out = tmp_path / "out"
    process = spawn(out, "node", "logs", "--home", str(log.parents[1]), "--follow", "--json", "--lines", "1")
    try:
        until("the end is shown", lambda: out.read_text().count("\n") == 1)
        with log.open("a") as file:
            file.write("new\nbeg")
        until("what came is shown", lambda: out.read_text().count("\n") == 2)
        with log.open("a") as file:
            file.write("un\n")
        log.rename(log.with_name(log.name + ".1"))
        log.write_text("next\n")
        until("what is in the new file is shown", lambda: out.read_text().count("\n") == 4)
    finally:
        process.terminate()
        process.wait()
    assert [json.loads(line)["line"] for line in out.read_text().splitlines()] == ["old", "new", "begun", "next"]
