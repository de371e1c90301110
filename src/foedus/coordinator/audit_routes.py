"""The door to the audit log: for people, and for the nodes that are its witnesses."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import Connection

from foedus.coordinator.context import context
from foedus.coordinator.http import parse, person, signed
from foedus.coordinator.identities import Person
from foedus.coordinator.policy import acts, reach
from foedus.store.audit import entries, head
from foedus.wire.audit import AuditPage, ReadAudit

router = APIRouter(prefix="/api/v1")
Who = Annotated[Person, Depends(person)]
NOBODY = "-"
"""The organisation whose affairs a node may read: none. It sees that the chain holds, and not what it says."""


@router.get("/audit", tags=["people"], **acts("audit.read"))
def get_audit(
    request: Request,
    who: Who,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> AuditPage:
    """Entries after a number, in order; of other organisations' affairs only what the chain needs."""
    mine = None if reach(who, "audit.read") == "all" else who.org
    with context(request).store.reading() as tx:
        return page(tx, after, limit, mine)


@router.post("/node/audit", tags=["nodes"], **acts("node.work"))
async def post_audit(request: Request) -> AuditPage:
    """As people read, for a node: it verifies that the log still has the head that it witnessed."""
    _, body = await signed(request)
    asked = parse(ReadAudit, body)
    with context(request).store.reading() as tx:
        return page(tx, asked.after, asked.limit, NOBODY)


def page(tx: Connection, after: int, limit: int, org: str | None) -> AuditPage:
    """Entries and the head, from one snapshot."""
    return AuditPage(entries=entries(tx, after, limit, org), head=head(tx))
