"""Whether a plan may do what is asked: looked up in the vault before every assignment, and again while it works.

What a coordinator says of an approval counts for nothing here. A plan is approved by its digest: by the owner, by the
signature of an author whom the owner trusts, or by the policy. One changed byte is another plan. Free of torch.
"""

from __future__ import annotations

import time
from functools import cache
from importlib.resources import files

from foedus.domain.errors import ForbiddenError
from foedus.domain.plan import PlanBundle
from foedus.node.grants import Answer, answer, grant_of, signed_by, signers
from foedus.node.policy import Policy, Resources, read_policy
from foedus.node.scope import UNBOUNDED, Scope, Use, outside
from foedus.node.vault import Vault


def check_approval(vault: Vault, policy: Policy, digest: str, use: Use) -> None:
    """Refuse a plan that is not approved, or not for this.

    Raises:
        ForbiddenError: ``plan_not_registered``, ``plan_not_approved``, ``plan_revoked``, ``approval_dataset``,
            ``approval_strategy``, ``approval_rounds``, ``approval_expired``, ``approval_resources``.
    """
    state, grant, name = vault.plan_state(digest), grant_of(vault, digest), vault.identity().name
    if state is None:
        why, fix = f"{name} was never offered a plan of this digest.", "Its owner has to see it first."
        raise ForbiddenError("plan_not_registered", f"The plan is not registered on node {name}.", why, fix)
    if state == "rejected" and grant is not None:
        why = "What was approved once may not run any more."
        raise ForbiddenError("plan_revoked", f"The owner of node {name} has revoked this plan's approval.", why)
    if state != "approved" or not _stands(policy, digest, grant):
        why = f"To its owner it is {'approved no longer' if state == 'approved' else state}."
        raise ForbiddenError("plan_not_approved", f"The plan is not approved on node {name}.", why)
    for rule, why in outside(grant.scope if grant else UNBOUNDED, use, time.time()):
        raise ForbiddenError(f"approval_{rule}", f"The plan is not approved for this on node {name}.", why)


def settle(vault: Vault, policy: Policy) -> None:
    """Decide what signatures and the policy decide, of the plans that wait; undo what the policy decides no longer."""
    for plan in vault.plans():
        if plan.state == "pending" and (given := _unread(vault, policy, plan.digest)) is not None:
            answer(vault, plan.digest, given)
        elif plan.state == "approved" and not _stands(policy, plan.digest, grant_of(vault, plan.digest)):
            answer(vault, plan.digest, Answer("pending", "", "policy"))


def policy_for(vault: Vault, digest: str) -> Policy:
    """The node's policy, with the resources that a plan's approval leaves it.

    Raises:
        ConfigError: where the policy is malformed.
    """
    grant = grant_of(vault, digest)
    return bounded(read_policy(vault.home), grant.scope if grant else UNBOUNDED)


def bounded(policy: Policy, scope: Scope) -> Policy:
    """The policy with the resources of an approval, where those are less.

    >>> bounded(Policy(), Scope(processes=3)).resources.processes
    3
    """
    took = policy.resources
    least = {name: min(value, getattr(took, name)) for name, value in scope.resources.items()}
    return policy.model_copy(update={"resources": Resources(**{**took.model_dump(), **least})})


@cache
def bundled() -> frozenset[str]:
    """The digests of the plans that come with foedus: the one that `foedus new` makes."""
    template = files("foedus").joinpath("cli", "scaffold", "plan.py.txt").read_bytes()
    return frozenset({PlanBundle({"plan.py": template}, "plan.py").digest})


def _unread(vault: Vault, policy: Policy, digest: str) -> Answer | None:
    known = {signer.key: signer for signer in signers(vault)}
    for key in signed_by(vault, digest):
        if key in known:
            return Answer("approved", f"signed by {known[key].name}", "signature", key, known[key].scope)
    if _automatic(policy, digest):
        return Answer("approved", f"automatic: {policy.approval.automatic}", "policy")
    return None


def _stands(policy: Policy, digest: str, grant: Answer | None) -> bool:
    """Whether an approval that the policy gave is still given by it."""
    return grant is None or grant.by != "policy" or _automatic(policy, digest)


def _automatic(policy: Policy, digest: str) -> bool:
    how = policy.approval.automatic
    return how == "all" or (how == "bundled" and digest in bundled())
