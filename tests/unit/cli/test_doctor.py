"""``foedus doctor``: a well machine, and one whose coordinator is gone."""

from __future__ import annotations


def test_a_well_machine_is_0(run) -> None:
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert ran.envelope["data"]["healthy"] is True
    checks = {check["check"] for check in ran.envelope["data"]["checks"]}
    assert {"Python", "torch", "bundled data", "current folder"} <= checks


def test_a_coordinator_that_is_not_there_is_1_and_says_what_to_do(run) -> None:
    ran = run("doctor", "--coordinator", "http://127.0.0.1:9", "--json")
    assert (ran.code, ran.envelope["status"], ran.envelope["exit_code"]) == (1, "error", 1)
    (wrong,) = [check for check in ran.envelope["data"]["checks"] if not check["ok"]]
    assert wrong["check"] == "coordinator"
    assert "foedus coordinator start" in wrong["fix"]


def test_the_table_has_three_columns(run) -> None:
    assert run("doctor").out.splitlines()[0].split() == ["Check", "Status", "Fix"]
