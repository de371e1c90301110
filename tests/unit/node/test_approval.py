"""Approvals: what each covers, who may give one, and what undoes it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foedus.domain.errors import AccessError, ConflictError, ForbiddenError, NotFoundError
from foedus.domain.plan import PlanBundle
from foedus.node.approval import bounded, bundled, check_approval, policy_for, settle
from foedus.node.grants import Answer, answer, grant_of, keep_signature
from foedus.node.offers import forget_plans
from foedus.node.owner import (
    approve,
    distrust_author,
    init,
    list_authors,
    list_plans,
    register,
    reject,
    standing,
    trust_author,
)
from foedus.node.policy import Approval, Policy
from foedus.node.scope import Scope, Use
from foedus.node.vault import PlanEntry, Vault
from foedus.wire.plan_signature import sign_plan, signature_path
from foedus.wire.public_keys import generate_key, public_key
from tests.unit.node.support import PLAN, bundle_of

USE = Use("ward-a", "fedavg", 3, True)
PRIVATE = bytes(range(32))
KEY = public_key(PRIVATE)
HOUR = 3600.0


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    init(tmp_path / "home", "clinic-a")
    with Vault(tmp_path / "home") as opened:
        yield opened


def offer(vault: Vault, bundle: PlanBundle, author: str = "ada") -> str:
    vault.bundle_path(bundle.digest).write_bytes(bundle.to_bytes())
    vault.record_plan(PlanEntry(bundle.digest, "study", author, "pending", "", 1.0, None))
    return bundle.digest


def code(vault: Vault, digest: str, policy: Policy | None = None, use: Use = USE) -> str:
    try:
        check_approval(vault, policy or Policy(), digest, use)
    except ForbiddenError as error:
        assert "clinic-a" in error.what, "a refusal names the node"
        assert str(vault.home) not in str(error)
        return error.code
    return ""


def test_approval_is_required_and_each_state_but_one_is_refused_by_its_own_code(vault: Vault) -> None:
    digest = bundle_of().digest
    assert code(vault, digest) == "plan_not_registered"
    offer(vault, bundle_of())
    assert code(vault, digest) == "plan_not_approved"
    reject(vault.home, digest, "no")
    assert code(vault, digest) == "plan_not_approved"
    approve(vault.home, digest)
    assert code(vault, digest) == ""
    reject(vault.home, digest, "second thoughts")
    assert code(vault, digest) == "plan_revoked"
    assert [line.event for line in vault.audit(3)] == ["rejected", "approved", "revoked"]


@pytest.mark.parametrize(
    ("scope", "use", "refusal"),
    [
        ({"datasets": ("ward-b",)}, {}, "approval_dataset"),
        ({"datasets": ("ward-*",)}, {}, ""),
        ({"strategies": ("fedprox", "scaf*")}, {}, "approval_strategy"),
        ({"strategies": ("fed*",)}, {}, ""),
        ({"rounds": 2}, {}, "approval_rounds"),
        ({"rounds": 3}, {}, ""),
        ({"until": time.time() - 1}, {}, "approval_expired"),
        ({"until": time.time() + HOUR}, {}, ""),
        ({"memory": 1 << 30}, {"held": False}, "approval_resources"),
        ({"memory": 1 << 30}, {}, ""),
    ],
)
def test_each_bound_of_an_approval_is_enforced_by_a_code_of_its_own(
    vault: Vault, scope: dict[str, Any], use: dict[str, Any], refusal: str
) -> None:
    digest = offer(vault, bundle_of())
    approve(vault.home, digest, scope=Scope(**scope))
    assert code(vault, digest, use=Use(**{**vars(USE), **use})) == refusal


def test_the_resources_of_an_approval_bound_its_process_and_never_loosen_the_policy(vault: Vault) -> None:
    digest = offer(vault, bundle_of())
    approve(vault.home, digest, scope=Scope(memory=1 << 30, cpu_seconds=10**9))
    took, usual = policy_for(vault, digest).resources, Policy().resources
    assert (took.memory, took.cpu_seconds, took.processes) == (1 << 30, usual.cpu_seconds, usual.processes)
    assert bounded(Policy(), Scope()) == Policy()


def test_an_approval_that_has_expired_is_told_as_refused(vault: Vault) -> None:
    digest = offer(vault, bundle_of())
    approve(vault.home, digest, scope=Scope(until=time.time() + HOUR))
    assert [plan.state for plan in vault.told()[1]] == ["approved"]
    answer(vault, digest, Answer("approved", scope=Scope(until=time.time() - 1)))
    (told,) = vault.told()[1]
    assert (told.state, told.note) == ("rejected", "the approval has expired")


def test_a_plan_is_registered_once_and_waits_for_a_decision_only_when_a_run_asks(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "plan.py").write_text("x = 1\n")
    made = register(vault.home, tmp_path / "plan.py")
    assert (made.status, made.name) == ("registered", "plan.py")
    assert vault.told()[1] == (), "what no run has asked for is nobody else's business"
    assert code(vault, made.digest) == "plan_not_approved"
    with pytest.raises(ConflictError) as caught:
        register(vault.home, tmp_path / "plan.py")
    assert caught.value.code == "plan_registered"
    vault.asked_for(made.digest, "study", "ada")
    (entry,) = list_plans(vault.home)
    assert (entry.status, entry.author) == ("pending", "ada")
    assert [plan.state for plan in vault.told()[1]] == ["pending"]
    assert approve(vault.home, made.digest).status == "approved"


def signed(vault: Vault, bundle: PlanBundle, private: bytes = PRIVATE) -> str:
    digest = offer(vault, bundle)
    keep_signature(vault, digest, sign_plan(private, digest))
    settle(vault, Policy())
    return digest


def test_case_58_a_signature_approves_where_the_owner_trusts_its_key_and_by_no_other_word(vault: Vault) -> None:
    stranger = signed(vault, bundle_of("x = 1"), generate_key())
    assert code(vault, stranger) == "plan_not_approved"
    trust_author(vault.home, "ada", KEY, Scope(rounds=3))
    digest = signed(vault, bundle_of("x = 2"))
    assert code(vault, digest) == ""
    assert code(vault, digest, use=Use("ward-a", "fedavg", 4, True)) == "approval_rounds"
    assert (list_plans(vault.home)[-1].digest, standing(vault.home, digest).signed) != (digest, ())
    assert code(vault, stranger) == "plan_not_approved"
    assert "does not trust" in standing(vault.home, stranger).signed[0]
    unsigned = offer(vault, bundle_of("x = 3"))
    settle(vault, Policy())
    assert code(vault, unsigned) == "plan_not_approved"


def test_who_comes_to_be_trusted_has_signed_before_and_who_is_trusted_no_longer_has_it_revoked(vault: Vault) -> None:
    digest, read = signed(vault, bundle_of("x = 1")), signed(vault, bundle_of("x = 2"))
    refused = signed(vault, bundle_of("x = 3"))
    approve(vault.home, read)
    reject(vault.home, refused)
    trust_author(vault.home, "ada", KEY)
    assert [code(vault, each) for each in (digest, read, refused)] == ["", "", "plan_not_approved"]
    assert [author.name for author in list_authors(vault.home)] == ["ada"]
    distrust_author(vault.home, "ada")
    assert [code(vault, each) for each in (digest, read)] == ["plan_revoked", ""]
    assert list_authors(vault.home) == ()


def test_an_author_has_one_key_that_is_one(vault: Vault) -> None:
    trust_author(vault.home, "ada", KEY)
    for name, key in (("ada", public_key(generate_key())), ("eve", KEY)):
        with pytest.raises(ConflictError) as exists:
            trust_author(vault.home, name, key)
        assert exists.value.code == "signer_exists"
    with pytest.raises(AccessError) as malformed:
        trust_author(vault.home, "eve", "A" * 44)
    assert malformed.value.code == "key_malformed"
    with pytest.raises(NotFoundError) as unknown:
        distrust_author(vault.home, "eve")
    assert unknown.value.code == "signer_unknown"


def test_a_signature_beside_a_registered_plan_counts_and_one_of_other_bytes_is_refused(
    vault: Vault, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.py"
    plan.write_text("x = 1\n")
    digest = register(vault.home, plan).digest
    trust_author(vault.home, "ada", KEY)
    signature_path(plan).write_text(sign_plan(PRIVATE, digest).model_dump_json())
    assert register(vault.home, plan).state == "approved"
    plan.write_text("x = 2\n")
    with pytest.raises(AccessError):
        register(vault.home, plan)
    assert len(list_plans(vault.home)) == 1


def template() -> PlanBundle:
    text = (Path(__file__).parents[3] / "src/foedus/cli/scaffold/plan.py.txt").read_bytes()
    return PlanBundle({"plan.py": text}, "plan.py")


@pytest.mark.parametrize(
    ("automatic", "approved"),
    [("none", ["pending", "pending"]), ("bundled", ["approved", "pending"]), ("all", ["approved", "approved"])],
)
def test_bundled_plans_are_approved_unread_where_the_policy_says_so(
    vault: Vault, automatic: Any, approved: list[str]
) -> None:
    assert template().digest in bundled()
    digests = [offer(vault, template()), offer(vault, bundle_of())]
    settle(vault, Policy(approval=Approval(automatic=automatic)))
    assert [vault.plan_state(digest) for digest in digests] == approved


def test_what_the_policy_approved_holds_only_as_long_as_it_says_so(vault: Vault) -> None:
    digest, bundled_too = offer(vault, template()), Policy(approval=Approval(automatic="bundled"))
    settle(vault, bundled_too)
    assert (code(vault, digest, bundled_too), code(vault, digest)) == ("", "plan_not_approved")
    settle(vault, Policy())
    assert vault.plan_state(digest) == "pending"
    settle(vault, bundled_too)
    approve(vault.home, digest)
    settle(vault, Policy())
    assert code(vault, digest) == ""


def test_files_of_rejected_plans_and_plans_approved_unread_go_when_nothing_has_used_them_in_long(vault: Vault) -> None:
    unread, wanted, owned, pending, rejected, used = (
        offer(vault, bundle_of(f"{PLAN}# {name}\n")) for name in ("unread", "wanted", "owned", "pending", "no", "used")
    )
    for digest in (unread, used):
        answer(vault, digest, Answer("approved", "automatic", "policy"))
    approve(vault.home, owned)
    reject(vault.home, rejected)
    for digest in (unread, owned, pending, rejected):
        os.utime(vault.bundle_path(digest), (1.0, 1.0))
    vault.bundle_path("e" * 64).touch()
    os.utime(vault.bundle_path("e" * 64), (1.0, 1.0))
    forget_plans(vault, 3600.0)
    left = {path.stem for path in (vault.home / "plans").iterdir()}
    assert left == {wanted, owned, pending, used}
    states = {plan.digest: plan.state for plan in vault.plans()}
    assert (states.get(unread), states[rejected], states[owned]) == (None, "rejected", "approved")
    assert grant_of(vault, unread) is None and vault.audit(1)[0].event == "plan_forgotten"


def test_an_approval_of_before_there_were_bounds_stands(vault: Vault) -> None:
    vault.record_plan(PlanEntry("a" * 64, "study", "ada", "approved", "", 1.0, 2.0))
    assert grant_of(vault, "a" * 64) is None
    assert code(vault, "a" * 64) == ""


def test_a_revoked_approval_that_is_given_again_has_its_new_bounds(vault: Vault) -> None:
    digest = offer(vault, bundle_of())
    approve(vault.home, digest, scope=Scope(rounds=9))
    reject(vault.home, digest)
    approve(vault.home, digest, scope=Scope(rounds=2))
    assert code(vault, digest) == "approval_rounds"
