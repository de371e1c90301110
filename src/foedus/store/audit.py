"""The audit log: rows that are only ever appended, each chained to the one before, in the transaction of the act.

The head is a row of its own, locked while an entry is appended: on PostgreSQL transactions that append follow each
other (on SQLite there is one writer anyhow).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Integer, String, Table, Text, insert, select, update

from foedus.domain.plain import Json
from foedus.store.tables import metadata
from foedus.wire.audit import GENESIS, AuditEntry, AuditHead, canonical, digest, link

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("org_id", String, nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("previous", String, nullable=False),
    Column("hash", String, nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, nullable=False),
    Column("hash", String, nullable=False),
)

ONE = 1
TEXT_LIMIT = 500
"""Characters of any text in an entry; what is longer is cut."""


@dataclass(frozen=True)
class Act:
    """Who did what to which object, and how it ended. ``org`` is whose affair it is: its auditors may read it."""

    actor: str
    action: str
    object: str = ""
    org: str = ""
    outcome: str = "done"
    detail: Mapping[str, Json] = field(default_factory=dict)


def record(tx: Connection, act: Act) -> AuditHead:
    """Append an entry; returns the new head."""
    last = _locked(tx)
    detail = {key: value[:TEXT_LIMIT] if isinstance(value, str) else value for key, value in act.detail.items()}
    body: dict[str, Any] = {
        "actor": act.actor[:TEXT_LIMIT],
        "action": act.action,
        "object": act.object[:TEXT_LIMIT],
        "org": act.org,
        "outcome": act.outcome[:TEXT_LIMIT],
        "detail": detail,
        "salt": secrets.token_hex(16),
    }
    seq, at, text = last.seq + 1, int(time.time() * 1000), canonical(body)
    found = link(seq, at, last.hash, digest(text))
    row = {"seq": seq, "at": at, "org_id": act.org, "body": text, "previous": last.hash, "hash": found}
    tx.execute(insert(audit).values(**row))
    tx.execute(update(audit_head).where(audit_head.c.id == ONE).values(seq=seq, hash=found))
    return AuditHead(seq=seq, hash=found)


def head(tx: Connection) -> AuditHead:
    """The newest entry's number and hash."""
    row = tx.execute(select(audit_head)).one_or_none()
    return AuditHead(seq=row.seq, hash=row.hash) if row else AuditHead(seq=0, hash=GENESIS)


def entries(tx: Connection, after: int, limit: int, org: str | None) -> tuple[AuditEntry, ...]:
    """Entries after a number, in order. With ``org`` the texts of other organisations' affairs are withheld."""
    rows = tx.execute(select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit))
    return tuple(
        AuditEntry(
            seq=row.seq,
            at=row.at,
            previous=row.previous,
            body=digest(row.body),
            hash=row.hash,
            text=row.body if org is None or row.org_id == org else None,
        )
        for row in rows
    )


def _locked(tx: Connection) -> AuditHead:
    row = tx.execute(select(audit_head).where(audit_head.c.id == ONE).with_for_update()).one_or_none()
    if row is None:
        tx.execute(insert(audit_head).values(id=ONE, seq=0, hash=GENESIS))
        return AuditHead(seq=0, hash=GENESIS)
    return AuditHead(seq=row.seq, hash=row.hash)
