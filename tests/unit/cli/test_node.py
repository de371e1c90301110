"""``foedus node``: what an owner does without a coordinator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foedus.domain.plan import PlanBundle
from foedus.node.vault import PlanEntry, Vault

BUNDLE = PlanBundle({"plan.py": b"print('\x1b[2J')\n"}, "plan.py")


@pytest.fixture
def home(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node whose owner was offered one plan."""
    monkeypatch.setenv("FOEDUS_NODE_HOME", str(tmp_path / "home"))
    assert run("node", "init", "clinic-a").code == 0
    with Vault(tmp_path / "home") as vault:
        vault.bundle_path(BUNDLE.digest).write_bytes(BUNDLE.to_bytes())
        vault.record_plan(PlanEntry(BUNDLE.digest, "digits", "ann", "pending", "", 0.0, None))
    return tmp_path / "home"


def test_a_node_is_made_once(run, home: Path) -> None:
    ran = run("node", "init", "clinic-a", "--json")
    assert (ran.code, ran.envelope["error"]["code"]) == (7, "node_exists")


def test_a_given_home_wins(run, home: Path, tmp_path: Path) -> None:
    ran = run("node", "init", "clinic-b", "--home", tmp_path / "other", "--json")
    assert ran.envelope["data"] == {
        "name": "clinic-b",
        "node": None,
        "coordinator": None,
        "home": str(tmp_path / "other"),
    }


def test_datasets_are_added_listed_and_removed(run, home: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "part.npz", image=np.zeros((3, 2), np.float32), label=np.zeros(3, np.int64))
    ran = run("node", "data", "add", tmp_path / "part.npz", "--name", "c0000", "--tags", "digits, images", "--json")
    assert ran.envelope["data"]["tags"] == ["digits", "images"]
    assert ran.envelope["data"]["examples"] == 3
    assert "c0000" in run("node", "data", "list").out
    assert run("node", "data", "remove", "c0000").code == 0
    assert run("node", "data", "list", "--json").envelope["data"] == {"datasets": []}
    assert (tmp_path / "part.npz").is_file()


def test_a_dataset_that_cannot_be_used_is_refused(run, home: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "part.npz", image=np.full((3, 2), np.nan, np.float32), label=np.zeros(3, np.int64))
    assert run("node", "data", "add", tmp_path / "part.npz", "--name", "c0000").code == 3


def test_an_owner_reads_a_plan_and_decides(run, home: Path) -> None:
    prefix = BUNDLE.digest[:12]
    assert prefix in run("node", "plan", "list").out
    shown = run("node", "plan", "show", prefix)
    assert "plan.py" in shown.out
    assert "\x1b" not in shown.out
    assert run("node", "plan", "approve", prefix, "--json").envelope["data"]["state"] == "approved"
    ran = run("node", "plan", "reject", prefix, "--note", "too many rounds", "--json")
    assert (ran.envelope["data"]["state"], ran.envelope["data"]["note"]) == ("rejected", "too many rounds")


def test_a_plan_is_shown_with_what_it_imports_and_what_differs_from_the_one_approved(run, home: Path) -> None:
    text = BUNDLE.files["plan.py"].decode()
    changed = PlanBundle({"plan.py": f"import socket\n{text}\nopen('x')\n".encode()}, "plan.py")
    assert "this is all of it" in run("node", "plan", "show", BUNDLE.digest[:12], "--diff").out
    run("node", "plan", "approve", BUNDLE.digest[:12])
    with Vault(home) as vault:
        vault.bundle_path(changed.digest).write_bytes(changed.to_bytes())
        (first,) = vault.plans()
        vault.record_plan(replace(first, digest=changed.digest, state="pending", decided_at=None))
    shown = run("node", "plan", "show", changed.digest[:12], "--diff")
    assert "look at socket" in shown.out and "open: reads or writes files" in shown.out
    assert "+import socket" in shown.out.splitlines()
    assert "────" not in shown.out and "\x1b" not in shown.out
    data = run("node", "plan", "show", changed.digest[:12], "--diff", "--json").envelope["data"]
    assert data["compared_with"] == BUNDLE.digest
    assert [line for line in data["diff"] if line.startswith("+import")] == ["+import socket"]


def test_a_plan_that_was_not_offered_is_not_found(run, home: Path) -> None:
    ran = run("node", "plan", "approve", "0123456789ab", "--json")
    assert (ran.code, ran.envelope["error"]["code"]) == (6, "plan_unknown")


def test_a_node_that_has_not_joined_cannot_start(run, home: Path) -> None:
    ran = run("node", "start", "--json")
    assert (ran.code, ran.envelope["error"]["code"]) == (2, "node_not_joined")


def test_without_a_join_token_nobody_joins(run, home: Path) -> None:
    ran = run("node", "join", "--coordinator", "http://127.0.0.1:9", "--json")
    assert (ran.code, ran.envelope["error"]["code"]) == (2, "token_missing")
