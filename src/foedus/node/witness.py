"""A node as a witness of its coordinator's audit log: it keeps the newest head that it has verified.

The head comes with every poll. From time to time the node fetches the links between the head that it keeps and the new
one: if they do not lead from one to the other, entries were changed or removed, and the node says so in its own log.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from foedus.domain.errors import UnreachableError
from foedus.node.tables import witness
from foedus.node.transport import Link
from foedus.node.vault import Vault
from foedus.wire.audit import AuditHead, AuditPage, ReadAudit, verify

AT_ONCE = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Witnessed:
    """The head that was verified last, when (Unix seconds), and what is wrong with the log since (empty: nothing)."""

    head: AuditHead
    at: float
    broken: str


def witnessed(vault: Vault) -> Witnessed | None:
    """What the node keeps; None where it has seen no head yet."""
    with vault.reading() as db:
        row = db.execute(select(witness)).one_or_none()
    return None if row is None else Witnessed(AuditHead(seq=row.seq, hash=row.hash), row.at, row.broken)


def forget(vault: Vault) -> None:
    """Begin anew with the next head: for an owner who knows why the log is another one, as after a restored backup."""
    with vault.transaction("node_witness") as db:
        db.execute(delete(witness))
        vault.log(db, "witness_forgotten", "audit log")


async def observe(vault: Vault, link: Link, told: AuditHead, every: float) -> None:
    """Take note of a head that the coordinator tells; follow the links to it once in ``every`` seconds."""
    kept = witnessed(vault)
    if kept is None:
        _keep(vault, told, "")
        return
    if kept.broken or told == kept.head:
        return
    why = ""
    if told.seq <= kept.head.seq:
        why = f"entry {kept.head.seq} was witnessed; now entry {told.seq} is the last, or is another one"
    elif time.time() - kept.at < every:
        return
    else:
        try:
            why = await _follow(link, kept.head, told)
        except UnreachableError:
            return
    if why:
        _log.error("the coordinator's audit log does not hold: %s", why)
    _keep(vault, kept.head if why else told, why)


async def _follow(link: Link, start: AuditHead, told: AuditHead) -> str:
    """What is wrong with the links from one head to another; empty where nothing is."""
    at = start
    while at.seq < told.seq:
        asked = ReadAudit(after=at.seq, limit=min(AT_ONCE, told.seq - at.seq))
        page = await link.post("/node/audit", asked, AuditPage)
        verdict = verify(page.entries, at, [told])
        if verdict.broken is not None and (not page.entries or verdict.broken <= page.entries[-1].seq):
            return f"entry {verdict.broken}: {verdict.why}"
        at = verdict.head
    return ""


def _keep(vault: Vault, head: AuditHead, broken: str) -> None:
    with vault.transaction("node_witness") as db:
        db.execute(delete(witness))
        db.execute(insert(witness).values(id=1, seq=head.seq, hash=head.hash, at=time.time(), broken=broken))
        if broken:
            vault.log(db, "witness_broken", "audit log", broken)
