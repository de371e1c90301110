"""Plans that a poll brings a node, for its owner to decide on."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, and_, bindparam, not_, null, select

from foedus.coordinator.run_rows import RUN, spec_of
from foedus.domain.lifecycle import RunStatus
from foedus.store.tables import approvals, datasets, runs
from foedus.wire.messages import PlanOffer
from foedus.wire.plan_signature import SIGNERS, PlanSignature

AT_ONCE = 20
"""Plans that one poll brings at most."""

_MINE = approvals.c.node_id == bindparam("node")
_WAITING = and_(approvals.c.state == "pending", approvals.c.signers.is_not(null()))
_DECIDED = select(approvals.c.digest).where(_MINE, not_(_WAITING))
_UNSIGNED = select(approvals.c.digest, approvals.c.signers).where(_MINE, _WAITING)
_ACTIVE = (RunStatus.WAITING.value, RunStatus.RUNNING.value)

UNDECIDED = RUN.where(runs.c.status.in_(_ACTIVE), runs.c.plan.not_in(_DECIDED)).order_by(runs.c.created_at)
"""Runs on whose plan a ``node`` has not said its last word."""


def offers(tx: Connection, node: str) -> tuple[PlanOffer, ...]:
    """Plans that runs want on this node's data, of which it has said nothing; or that wait for a signature it lacks."""
    rows = tx.execute(UNDECIDED, {"node": node}).all()
    if not rows:
        return ()
    waits = {row.digest: row.signers for row in tx.execute(_UNSIGNED, {"node": node})}
    signed = _signed(tx, {row.plan for row in rows})
    tags = [set(found) for found in tx.execute(select(datasets.c.tags).where(datasets.c.node_id == node)).scalars()]
    found = {
        row.plan: PlanOffer(
            run=row.id,
            digest=row.plan,
            blob=row.plan_blob,
            name=row.name[:200],
            author=row.author[:200],
            signed=signed.get(row.plan),
        )
        for row in rows
        if _lacks(waits.get(row.plan), signed.get(row.plan))
        if any(set(spec_of(row).data.tags) <= have for have in tags)
    }
    return tuple(found.values())[:AT_ONCE]


def _signed(tx: Connection, plans: Collection[str]) -> dict[str, PlanSignature]:
    """The newest signature of each plan that has one, whichever run brought it."""
    query = select(runs.c.plan, runs.c.plan_signature).where(runs.c.plan.in_(plans)).order_by(runs.c.created_at)
    return {
        row.plan: PlanSignature.model_validate(row.plan_signature)
        for row in tx.execute(query)
        if row.plan_signature is not None
    }


def _lacks(has: Collection[str] | None, signed: PlanSignature | None) -> bool:
    """Whether a node wants the offer that ``has`` these signatures of a plan; none: it has said nothing of it."""
    return has is None or (signed is not None and signed.signer not in has and len(has) < SIGNERS)
