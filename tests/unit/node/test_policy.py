"""What a node's policy refuses, rule by rule, and that a rule holds where the owner wrote none of it."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from foedus.domain.errors import ConfigError, ForbiddenError, StorageError
from foedus.domain.table import validate
from foedus.node.policy import FILE, Policy, Request, broken, check, check_sandbox, largest_batch, read_policy
from foedus.node.policy_words import explained
from foedus.sandbox.bubblewrap import unavailable
from tests.holding import INSTALL

NOON = datetime(2026, 5, 4, 12, 0)
LOCAL = {"lr": 0.1, "epochs": 2, "optimizer": "sgd"}


def request(**changed: Any) -> Request:
    return Request(**{"strategy": "fedavg", "options": {"local": LOCAL}, "round": 5, "examples": 100, **changed})


def policy(**allow: Any) -> Policy:
    return validate(Policy, {"allow": allow}, "policy")


@pytest.mark.parametrize(
    ("allow", "changed", "rule"),
    [
        ({"strategies": ["fedprox", "scaf*"]}, {}, "allow.strategies"),
        ({"options": {"local.epochs": {"high": 1.0}}}, {}, "allow.options.local.epochs"),
        ({"options": {"local.lr": {"low": 0.2}}}, {}, "allow.options.local.lr"),
        ({"options": {"local.optimizer": {"values": ["adam"]}}}, {}, "allow.options.local.optimizer"),
        ({"options": {"local.optimizer": {"high": 1.0}}}, {}, "allow.options.local.optimizer"),
        ({"options": {"local.clip": {"high": 1.0}}}, {}, "allow.options.local.clip"),
        ({"options": {"local.lr.x": {"high": 1.0}}}, {}, "allow.options.local.lr.x"),
        ({"rounds": 4}, {}, "allow.rounds"),
        ({"examples": 101}, {}, "allow.examples"),
        ({"cohort": 3}, {"cohort": 2}, "allow.cohort"),
        ({"cohort": 3}, {}, "allow.cohort"),
        ({"hours": "20:00-06:00"}, {}, "allow.hours"),
        ({"hours": "08:00-12:00"}, {}, "allow.hours"),
    ],
)
def test_what_is_not_allowed_is_refused_with_the_rule(
    allow: dict[str, Any], changed: dict[str, Any], rule: str
) -> None:
    assert [found for found, _ in broken(policy(**allow), request(**changed), NOON)] == [rule]
    with pytest.raises(ForbiddenError) as refused:
        check(policy(**allow), request(**changed), NOON)
    assert refused.value.code == "policy_refused"
    assert rule in refused.value.what


@pytest.mark.parametrize(
    "allow",
    [
        {},
        {"strategies": ["fed*"]},
        {"options": {"local.epochs": {"low": 1.0, "high": 2.0}, "local.optimizer": {"values": ["sgd", "adam"]}}},
        {"rounds": 5, "examples": 100},
        {"hours": "12:00-12:01"},
        {"hours": "22:00-13:00"},
    ],
)
def test_what_is_allowed_passes(allow: dict[str, Any]) -> None:
    check(policy(**allow), request(), NOON)


def test_a_sandbox_is_the_default_and_where_there_is_none_the_owner_has_to_opt_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unavailable.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    try:
        with pytest.raises(StorageError, match="opt out") as refused:
            check_sandbox(Policy(), tmp_path)
        check_sandbox(Policy(sandbox="off"), tmp_path)
    finally:
        unavailable.cache_clear()
    assert refused.value.code == "sandbox_unavailable"
    assert explained(Policy(sandbox="off"))[0][1].startswith("none: ")


@pytest.mark.skipif(bool(unavailable()), reason=INSTALL)
def test_a_home_that_every_plan_would_be_shown_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one in the folder of a virtual environment, also where a link leads there: the key lies in it."""
    venv, link = tmp_path / "venv", tmp_path / "link"
    (venv / "node").mkdir(parents=True)
    link.symlink_to(venv / "node")
    check_sandbox(Policy(), link)
    monkeypatch.setattr(sys, "prefix", str(venv))
    for home in (venv / "node", link, venv):
        with pytest.raises(StorageError, match="Move the home") as refused:
            check_sandbox(Policy(), home)
        assert refused.value.code == "sandbox_unavailable"
        check_sandbox(Policy(sandbox="off"), home)
    check_sandbox(Policy(), tmp_path / "node")


@pytest.mark.parametrize("now", ["20:00", "23:59", "00:00", "05:59"])
def test_hours_may_be_over_midnight(now: str) -> None:
    check(policy(hours="20:00-06:00"), request(), datetime.fromisoformat(f"2026-05-04T{now}"))


def test_the_file_is_read_strictly_and_without_it_everything_is_allowed(tmp_path: Path) -> None:
    assert read_policy(tmp_path) == Policy()
    (tmp_path / FILE).write_text("[allow]\nstrategys = ['fedavg']\n")
    with pytest.raises(ConfigError, match="strategys"):
        read_policy(tmp_path)
    (tmp_path / FILE).write_text("[allow]\nhours = '25:00-06:00'\n")
    with pytest.raises(ConfigError):
        read_policy(tmp_path)
    (tmp_path / FILE).write_text("[allow]\nstrategies = ['fedavg']\noptions = { 'local.epochs' = { high = 3 } }\n")
    said = dict(explained(read_policy(tmp_path)))
    assert (said["allow.strategies"], said["allow.options.local.epochs"]) == ("fedavg", "3 or less")


@pytest.mark.parametrize(
    ("local", "fine"),
    [({"batch_size": 8}, True), ({"batch_size": 9}, False), ({"lr": 0.1}, False), ({}, True), ({"options": {}}, True)],
)
def test_a_run_s_batches_are_held_against_the_largest_that_the_owner_states(local: dict[str, Any], fine: bool) -> None:
    found = validate(Policy, {"resources": {"batch_size": 8}}, "policy")
    assert dict(explained(found))["resources.batch_size"] == "batches of 8 examples or fewer; coordinators are told"
    named = [name for name, _ in broken(found, request(options={"local": local}), NOON)]
    assert named == ([] if fine else ["resources.batch_size"]), "ten where nothing is said, none of a plan's own"


def test_the_largest_batch_is_what_a_policy_that_can_be_read_says(tmp_path: Path) -> None:
    assert largest_batch(tmp_path) is None
    (tmp_path / FILE).write_text("[resources]\nbatch_size = 8\n")
    assert largest_batch(tmp_path) == 8
    (tmp_path / FILE).write_text("[resources]\nbatch_size = 0\n")
    assert largest_batch(tmp_path) is None


@pytest.mark.parametrize(
    ("resources", "gpus", "rule"),
    [
        ({"gpu": True, "gpu_only": True}, (), "resources.gpu_only"),
        ({"gpu_only": True}, (0,), "resources.gpu_only"),
        ({"gpu": True, "gpu_num": 2}, (0, 1), "resources.gpu_num"),
        ({"gpu": True, "gpu_num": 1, "gpu_only": True}, (0, 1), None),
        ({"gpu_num": 2}, (), None),
    ],
)
def test_rules_on_gpus_are_held_against_the_machine_s(
    resources: dict[str, Any], gpus: tuple[int, ...], rule: str | None
) -> None:
    found = validate(Policy, {"sandbox": "off", "resources": resources}, "policy")
    assert [name for name, _ in broken(found, request(gpus=gpus), NOON)] == [rule] * (rule is not None)


def test_a_sandbox_shows_no_gpu_and_the_policy_says_so() -> None:
    held = validate(Policy, {"resources": {"gpu": True, "gpu_only": True}}, "policy")
    assert [name for name, _ in broken(held, request(gpus=(0,)), NOON)] == ["resources.gpu_only"]
    assert dict(explained(held))["resources.gpu"] == "no GPU is seen: a sandbox shows none"


def test_every_rule_that_there_is_is_explained_under_its_own_name() -> None:
    full = {
        "approval": {"automatic": "bundled"},
        "allow": {"options": {"local.lr": {"high": 1.0}}, "rounds": 3, "hours": "20:00-06:00"},
        "resources": {"gpu": True, "gpu_num": 0, "gpu_only": True, "batch_size": 8},
        "leave": {"update_bytes": 10, "tensor_bytes": 5, "logs": True},
    }
    said = [rule for rule, _ in explained(validate(Policy, full, "policy"))]
    together = {"gpu_num": "resources.gpu", "log_bytes": "leave.logs", "schemas": "leave.schema"}
    for name in ("approval", "allow", "resources", "leave"):
        for rule in type(getattr(Policy(), name)).model_fields:
            assert any(each.startswith(together.get(rule, f"{name}.{rule}")) for each in said), rule
