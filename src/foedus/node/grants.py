"""What a node's vault keeps of approvals: how far each goes, who gave it, and the authors whom the owner trusts.

Free of torch. An approval without a record here was given by the owner, without bounds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from foedus.domain.errors import ConflictError, NotFoundError
from foedus.node import tables
from foedus.node.scope import UNBOUNDED, Scope, parse_scope
from foedus.node.vault import Vault
from foedus.wire.plan_signature import SIGNERS, PlanSignature
from foedus.wire.public_keys import parse_public_key
from foedus.wire.trust import fingerprint_of

SIGNERS_LIMIT = 100


@dataclass(frozen=True)
class Answer:
    """What is decided of a plan. ``by``: ``owner``, ``signature`` (of the trusted key ``signer``) or ``policy``."""

    state: str
    note: str = ""
    by: str = "owner"
    signer: str = ""
    scope: Scope = UNBOUNDED


@dataclass(frozen=True)
class Signer:
    """An author whom the owner trusts, and for what. ``at`` is in Unix seconds."""

    key: str
    name: str
    scope: Scope
    at: float

    @property
    def fingerprint(self) -> str:
        """What two people compare to know that a key is the same."""
        return fingerprint_of(self.key)


def answer(vault: Vault, digest: str, given: Answer) -> None:
    """Record what is decided of a plan, and how far it goes."""
    with vault.transaction("node_plan") as db:
        _answer(vault, db, digest, given)


def grant_of(vault: Vault, digest: str) -> Answer | None:
    """How the plan was approved, the last time that it was; none where nothing is kept of it."""
    with vault.reading() as db:
        row = db.execute(select(tables.grants).where(tables.grants.c.digest == digest)).one_or_none()
    return None if row is None else Answer("approved", "", row.given_by, row.signer, parse_scope(row.scope))


def keep_signature(vault: Vault, digest: str, signed: PlanSignature) -> None:
    """Keep a signature of a plan, which was checked."""
    row = {"digest": digest, "signer": signed.signer, "signature": signed.signature}
    with vault.transaction("node_plan") as db:
        db.execute(insert(tables.signatures).values(row).on_conflict_do_nothing())


def awaited_signers(vault: Vault) -> dict[str, tuple[str, ...]]:
    """The keys that have signed each plan that waits for a decision."""
    waiting = select(tables.plans.c.digest, tables.signatures.c.signer).where(tables.plans.c.state == "pending")
    query = waiting.outerjoin_from(
        tables.plans, tables.signatures, tables.signatures.c.digest == tables.plans.c.digest
    ).order_by(tables.signatures.c.signer)
    found: dict[str, tuple[str, ...]] = {}
    with vault.reading() as db:
        for digest, signer in db.execute(query):
            found[digest] = (*found.get(digest, ()), *([signer] if signer else []))[:SIGNERS]
    return found


def signed_by(vault: Vault, digest: str) -> tuple[str, ...]:
    """The keys that have signed a plan."""
    query = select(tables.signatures.c.signer).where(tables.signatures.c.digest == digest)
    with vault.reading() as db:
        return tuple(db.execute(query.order_by("signer")).scalars())


def trust(vault: Vault, name: str, key: str, scope: Scope) -> Signer:
    """Trust an author from now on.

    Raises:
        AccessError: ``key_malformed``. ConflictError: ``signer_exists``, ``too_many_signers``.
    """
    parse_public_key(key)
    new = Signer(key, name, scope, time.time())
    if len(signers(vault)) >= SIGNERS_LIMIT:
        raise ConflictError("too_many_signers", f"A node trusts at most {SIGNERS_LIMIT} authors.")
    row = {"key": key, "name": name, "scope": scope.model_dump(mode="json"), "at": new.at}
    with vault.transaction("node_plan") as db:
        if db.execute(insert(tables.signers).values(row).on_conflict_do_nothing()).rowcount == 0:
            why = "Either the name or the key is there already; `foedus node trust list` shows both."
            raise ConflictError("signer_exists", f"There is an author {name} or of this key.", why, "Remove it first.")
        vault.log(db, "author_trusted", name, new.fingerprint)
    return new


def distrust(vault: Vault, name: str) -> Signer:
    """Trust an author no longer; what was approved by their signature is revoked.

    Raises:
        NotFoundError: ``signer_unknown``.
    """
    known = next((one for one in signers(vault) if one.name == name), None)
    if known is None:
        raise NotFoundError(
            "signer_unknown", f"No author {name[:64]!a} is trusted here.", "", "See `foedus node trust list`."
        )
    by_them = select(tables.grants.c.digest).where(tables.grants.c.signer == known.key)
    held = select(tables.plans.c.digest).where(tables.plans.c.state == "approved", tables.plans.c.digest.in_(by_them))
    with vault.transaction("node_plan") as db:
        db.execute(delete(tables.signers).where(tables.signers.c.key == known.key))
        vault.log(db, "author_distrusted", name, known.fingerprint)
        for digest in db.execute(held).scalars().all():
            _answer(vault, db, digest, Answer("rejected", "its signer is trusted no longer"))
    return known


def signers(vault: Vault) -> tuple[Signer, ...]:
    """The authors whom the owner trusts, by name."""
    with vault.reading() as db:
        return tuple(map(_signer, db.execute(select(tables.signers).order_by("name"))))


def forget_plan(vault: Vault, digest: str) -> None:
    """Forget a plan with all that was decided of it, as if it had never been offered."""
    with vault.transaction("node_plan") as db:
        for table in (tables.plans, tables.grants, tables.signatures):
            db.execute(delete(table).where(table.c.digest == digest))
        vault.log(db, "plan_forgotten", digest, "no run has used it in long")


def _answer(vault: Vault, db: Connection, digest: str, given: Answer) -> None:
    here = tables.plans.c.digest == digest
    before = db.execute(select(tables.plans.c.state).where(here)).scalar()
    now = time.time()
    decided = None if given.state == "pending" else now
    db.execute(update(tables.plans).where(here).values(state=given.state, note=given.note, decided_at=decided))
    if given.state == "approved":
        scope = given.scope.model_dump(mode="json")
        row = {"given_by": given.by, "signer": given.signer, "scope": scope, "until": given.scope.until, "at": now}
        db.execute(insert(tables.grants).values(digest=digest, **row).on_conflict_do_update(["digest"], set_=row))
    event = "revoked" if before == "approved" and given.state != "approved" else given.state
    vault.log(db, event, digest, f"by {given.by}{f': {given.note}' if given.note else ''}")


def _signer(row: Row[Any]) -> Signer:
    return Signer(row.key, row.name, parse_scope(row.scope), row.at)
