"""``foedus node``: what an owner does without a coordinator."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_a_dataset_is_shown_with_its_statistics_and_its_place_only_where_it_is_asked_for(
    run, home: Path, tmp_path: Path
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("L", (4, 4), 200).save(tmp_path / "pets" / name / "1.png")
    given = ("--set", "mode=L", "--set", "size=2", "--minimum", "2", "--description", "Two pets", "--tags", "pets")
    added = run("node", "data", "add", tmp_path / "pets", "--name", "pets", *given, "--json").envelope["data"]
    assert (added["kind"], added["options"], added["minimum"]) == ("images", {"mode": "L", "size": 2}, 2)
    image, label = run("node", "data", "show", "pets", "--json").envelope["data"]["summary"]
    assert (image["name"], image["dtype"], image["shape"], image["mean"]) == ("image", "uint8", [2, 2], 200.0)
    assert (label["low"], label["high"]) == (0.0, 1.0)
    shown = [run("node", "data", *words).out for words in (("show", "pets"), ("list",), ("list", "--json"))]
    assert all("Two pets" in text and str(tmp_path) not in text for text in shown)
    assert run("node", "data", "show", "pets", "--path").out.strip() == str(tmp_path / "pets")
    assert run("node", "data", "show", "dogs", "--json").envelope["error"]["code"] == "dataset_unknown"
    overlap = run("node", "data", "add", tmp_path / "pets", "--name", "more", "--tags", "pets,new", "--json")
    assert (overlap.code, overlap.envelope["error"]["code"]) == (7, "tags_overlap")
    wrong = run("node", "data", "add", tmp_path / "pets", "--name", "more", "--set", "sise=2", "--json")
    assert (wrong.code, wrong.envelope["error"]["code"]) == (3, "config_refused")


def test_h14_an_owner_reads_what_a_run_that_aligns_tables_would_be_told(run, home: Path, tmp_path: Path) -> None:
    stays, show = tmp_path / "stays.csv", ("node", "data", "schema", "stays")
    stays.write_text("age,ward\n61,north\n?,south\n")
    assert run("node", "data", "add", stays, "--name", "stays", "--texts", "--loading", "ward").code == 2
    added = run("node", "data", "add", stays, "--name", "stays", "--texts")
    assert (added.code, [line.split() for line in added.out.splitlines()[3:5]]) == (
        0,
        [["age", "number"], ["ward", "text", "2"]],
    )
    numbers, words = {"classes": [], "whole": False}, {"classes": ["north", "south"], "whole": True}
    told = {"client": "stays", "columns": {"age": numbers, "ward": words}}
    assert run(*show, "--json").envelope["data"] == {**told, "leaves": False}
    shown = run(*show).out
    assert "north, south" in shown and "61" not in shown and "The policy keeps this here" in shown
    (home / "policy.toml").write_text("[leave]\nschema = true\n")
    assert run(*show, "--json").envelope["data"] == {**told, "leaves": True}
    checked = run("node", "policy", "check", "--json").envelope["data"]
    assert checked["policy"]["leave"]["schema"] is True
    assert checked["rules"]["leave.schema"] == "names of a table's columns, and of the classes in them"
    assert run("node", "data", "schema", "other", "--json").envelope["error"]["code"] == "dataset_unknown"


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


def test_an_approval_has_the_bounds_that_its_options_say(run, home: Path) -> None:
    prefix = BUNDLE.digest[:12]
    bounds = ("--dataset", "ward-*", "--strategy", "fedavg", "--rounds", 20, "--until", "2199-01-31", "--processes", 9)
    ran = run("node", "plan", "approve", prefix, *bounds, "--json").envelope["data"]
    assert (ran["state"], ran["given_by"]) == ("approved", "owner")
    assert {name: value for name, value in ran["scope"].items() if value} == {
        "datasets": ["ward-*"],
        "strategies": ["fedavg"],
        "rounds": 20,
        "until": 7229174400.0,
        "processes": 9,
    }
    shown = run("node", "plan", "show", prefix).out
    assert "the first 20 rounds of a run, until 2199-01-31 00:00 UTC, processes 9" in shown
    over = run("node", "plan", "approve", prefix, "--until", "2001-01-31", "--json")
    assert (over.code, over.envelope["error"]["code"]) == (2, "approval_over")
    assert run("node", "plan", "approve", prefix, "--json").envelope["data"]["scope"]["rounds"] is None


def test_a_signed_plan_is_registered_and_approved_where_its_author_is_trusted(run, home: Path, tmp_path: Path) -> None:
    plan, key = tmp_path / "plan.py", tmp_path / "author.key"
    plan.write_text("import torch\n")
    (tmp_path / "lock").write_text("torch==0.0.1\nnowhere==1.0  # never made\n")
    digest = run("plan", "digest", plan).out.strip()
    public = run("plan", "key", key, "--json").envelope["data"]["key"]
    assert key.stat().st_mode & 0o777 == 0o600
    assert run("plan", "key", key, "--json").envelope["error"]["code"] == "key_exists"
    assert run("plan", "sign", plan, "--key", key).code == 0
    assert run("plan", "sign", plan, "--key", plan, "--json").envelope["error"]["code"] == "key_missing"
    assert run("plan", "digest", plan).out.strip() == digest, "the signature is beside the plan, not in it"
    registered = run("node", "plan", "register", plan, "--json").envelope["data"]
    assert (registered["digest"], registered["state"]) == (digest, "registered")
    assert "whom this node does not trust" in run("node", "plan", "show", digest).out
    assert run("node", "trust", "add", "ada", public, "--rounds", 3).code == 0
    assert "ada" in run("node", "trust", "list").out
    shown = run("node", "plan", "show", digest)
    assert "approved (signed by ada)" in shown.out and "signed by ada" in shown.out
    assert "needs torch 0.0.1, here " in shown.out and "needs nowhere 1.0, here not installed" in shown.out
    assert run("node", "trust", "remove", "ada").code == 0
    assert run("node", "plan", "list", "--json").envelope["data"]["plans"][0]["state"] == "rejected"
    again = run("node", "plan", "register", plan, "--json")
    assert (again.code, again.envelope["error"]["code"]) == (7, "plan_registered")


def test_the_policy_is_explained_rule_by_rule(run, home: Path) -> None:
    assert "there is no policy.toml" in run("node", "policy", "check").out
    (home / "policy.toml").write_text("[allow]\ncohort = 3\n\n[leave]\nmetrics = ['loss']\n")
    ran = run("node", "policy", "check")
    lines = {line.split()[0]: line for line in ran.out.splitlines() if line.startswith("  ")}
    assert "rounds that ask 3 clients or more" in lines["allow.cohort"]
    assert lines["leave.metrics"].endswith("loss")
    data = run("node", "policy", "check", "--json").envelope["data"]
    assert (data["rules"]["allow.cohort"], data["policy"]["allow"]["cohort"]) == (
        "rounds that ask 3 clients or more",
        3,
    )
    (home / "policy.toml").write_text("[leave]\nmetric = ['loss']\n")
    assert run("node", "policy", "check", "--json").envelope["error"]["code"] == "config_refused"


def test_loading_plans_are_kept_listed_shown_and_removed(run, home: Path, tmp_path: Path) -> None:
    assert "No loading plan" in run("node", "loading", "list").out
    plan = tmp_path / "ward.toml"
    plan.write_text('name = "ward"\n[columns]\nage = { from = "Alter", missing = "mean" }\n')
    (tmp_path / "rows.data").write_text("Alter\n30\n?\n50\n")
    kept = run("node", "loading", "add", plan, "--json").envelope["data"]
    assert (kept["name"], len(kept["digest"]), kept["datasets"]) == ("ward", 64, [])
    added = run("node", "data", "add", tmp_path / "rows.data", "--name", "c0000", "--loading", "ward", "--json")
    assert (added.envelope["data"]["loading"], added.envelope["data"]["examples"]) == ("ward", 3)
    assert run("node", "loading", "list", "--json").envelope["data"]["loadings"] == [{**kept, "datasets": ["c0000"]}]
    shown = run("node", "loading", "show", "ward").out
    assert f"# {kept['digest']}" in shown
    assert tomllib.loads(shown) == tomllib.loads(plan.read_text())
    assert run("node", "loading", "remove", "ward", "--json").envelope["error"]["code"] == "loading_used"
    assert run("node", "data", "remove", "c0000").code == 0
    assert run("node", "loading", "remove", "ward").code == 0
    assert run("node", "loading", "show", "ward", "--json").envelope["error"]["code"] == "loading_unknown"
