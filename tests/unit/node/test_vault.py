"""What a node keeps for good: its key, its records and its log."""

from __future__ import annotations

import stat
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from foedus.domain.errors import ConflictError, NotFoundError
from foedus.node import tables
from foedus.node.grants import Answer, answer
from foedus.node.vault import FILE, Dataset, PlanEntry, Vault, create_home
from foedus.store.unit_of_work import Store

PLAN = PlanEntry("a" * 64, "study", "ada", "pending", "", 1.0, None)
DATASET = Dataset("clinic-a", Path("/data/a.npz"), ("digits",), 25, ("image", "label"), 1.0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_home(tmp_path / "home", "clinic-a")
    return tmp_path / "home"


def test_the_key_is_the_owner_s_alone_and_stays_the_same(home: Path) -> None:
    assert stat.S_IMODE((home / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    with Vault(home) as vault, Vault(home) as again:
        assert len(vault.private_key) == 32
        assert vault.private_key == again.private_key


def test_a_second_node_in_the_same_home_is_refused(home: Path) -> None:
    key = (home / "key").read_text()
    with pytest.raises(ConflictError) as caught:
        create_home(home, "other")
    assert caught.value.code == "node_exists"
    assert (home / "key").read_text() == key


def test_a_home_without_a_node_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        Vault(tmp_path)
    assert caught.value.code == "node_missing"


def test_records_outlive_the_process(home: Path) -> None:
    with Vault(home) as vault:
        vault.joined("n_1", "http://127.0.0.1:1")
        vault.add_dataset(DATASET)
        vault.record_plan(PLAN)
    with Vault(home) as vault:
        assert (vault.identity().name, vault.identity().node) == ("clinic-a", "n_1")
        assert vault.datasets() == (DATASET,)
        assert vault.plans() == (PLAN,)


def test_a_plan_that_is_known_keeps_the_decision(home: Path) -> None:
    with Vault(home) as vault:
        vault.record_plan(PLAN)
        answer(vault, PLAN.digest, Answer("approved", "fine"))
        vault.record_plan(PLAN)
        assert vault.plan_state(PLAN.digest) == "approved"
        assert vault.plan_state("b" * 64) is None


def test_a_dataset_is_added_once_and_removed_once(home: Path) -> None:
    with Vault(home) as vault:
        vault.add_dataset(DATASET)
        with pytest.raises(ConflictError):
            vault.add_dataset(DATASET)
        vault.remove_dataset("clinic-a")
        with pytest.raises(NotFoundError):
            vault.remove_dataset("clinic-a")
        assert vault.datasets() == ()


def test_what_is_told_names_no_path(home: Path) -> None:
    with Vault(home) as vault:
        vault.add_dataset(DATASET)
        vault.record_plan(PLAN)
        datasets, approvals = vault.told()
    told = {"client": "clinic-a", "tags": ("digits",), "examples": 25, "batch_size": None, "speed": None}
    assert [view.model_dump() for view in datasets] == [told]
    assert [(plan.digest, plan.state) for plan in approvals] == [("a" * 64, "pending")]


def test_the_log_tells_what_happened_in_order(home: Path) -> None:
    with Vault(home) as vault:
        vault.joined("n_1", "http://127.0.0.1:1")
        vault.record_plan(PLAN)
        answer(vault, PLAN.digest, Answer("rejected", "no"))
        vault.record("refused", "r_1", "round 1")
        assert [line.event for line in vault.audit()] == ["initialised", "joined", "plan_seen", "rejected", "refused"]
        assert [line.subject for line in vault.audit(2)] == [PLAN.digest, "r_1"]


def test_a_line_that_was_written_before_its_process_was_killed_is_not_written_again(home: Path) -> None:
    with Vault(home) as vault:
        vault.record_plan(PLAN)
        answer(vault, PLAN.digest, Answer("approved"))
        answer(vault, PLAN.digest, Answer("rejected"))
        last = vault.audit(1)[0]
        row = {"id": last.row, "at": datetime.fromisoformat(last.at).timestamp(), "facts": {}}
        for number in range(100):
            vault.record("request", "r_1", f"round {number}")
        with Store(f"sqlite:///{home / FILE}", tables.metadata).transaction("test") as db:
            db.execute(insert(tables.audit).values(event=last.event, subject=last.subject, detail=last.detail, **row))
    with Vault(home) as vault:
        vault.record_plan(replace(PLAN, digest="b" * 64))
        kinds = [line.event for line in vault.audit() if line.event != "request"]
    assert kinds == ["initialised", "plan_seen", "approved", "revoked", "plan_seen"]


def test_changes_by_another_process_are_noticed(home: Path) -> None:
    with Vault(home) as vault, Vault(home) as owner, vault.changes() as version:
        before = version()
        assert version() == before
        owner.record_plan(PLAN)
        assert version() != before
