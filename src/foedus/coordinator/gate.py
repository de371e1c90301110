"""The gate before every route: a route is reached only by who has the action that it declares.

It authenticates once per request (a node's signature is used up by that) and judges the action; and where the path
names a run or a node, whether that is within reach: one that is not is answered exactly as one that is not there. A
route that declares no action is refused to everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anyio import to_thread
from fastapi import Request
from sqlalchemy import Table, select
from starlette.types import Scope

from foedus.coordinator.context import context
from foedus.coordinator.http import person, signed_head
from foedus.coordinator.identities import Person
from foedus.coordinator.nodes import node_unknown
from foedus.coordinator.policy import ACTION, MACHINES, POLICY, covers, require
from foedus.coordinator.run_rows import run_unknown
from foedus.domain.errors import ForbiddenError, NotFoundError
from foedus.store.tables import nodes, runs

OWNED: Mapping[str, tuple[Table, Callable[[str], NotFoundError]]] = {
    "run": (runs, run_unknown),
    "node": (nodes, node_unknown),
}
"""What a path can name that has an owner, and how it is told that there is none. Other objects: their use cases."""


def action_of(scope: Scope) -> str | None:
    """The action that the route of a request declares."""
    extra = getattr(scope.get("route"), "openapi_extra", None) or {}
    action = extra.get(ACTION)
    return action if action in POLICY or action in MACHINES else None


async def gate(request: Request) -> None:
    """Let pass who may.

    Raises:
        AccessError: where it is not clear who asks. ForbiddenError: ``action_undeclared``, ``role_needed``,
            ``token_too_narrow``. NotFoundError: for what is not there and for what is out of reach alike.
    """
    action = action_of(request.scope)
    if action is None:
        raise ForbiddenError("action_undeclared", "Nobody may come here: the route declares no action.")
    machines = MACHINES.get(action, frozenset())
    if "anyone" in machines:
        return
    if "node" in machines and (action not in POLICY or "authorization" not in request.headers):
        await signed_head(request)
        return
    who = await person(request)
    require(who, action)
    named = {kind: value for kind, value in request.path_params.items() if kind in OWNED}
    if named:
        await to_thread.run_sync(_check_owned, request, who, action, named)


def _check_owned(request: Request, who: Person, action: str, named: Mapping[str, str]) -> None:
    with context(request).store.reading() as tx:
        for kind, value in named.items():
            table, unknown = OWNED[kind]
            row = tx.execute(select(table.c.owner_id, table.c.org_id).where(table.c.id == value)).one_or_none()
            if row is None or not covers(who, action, row.owner_id, row.org_id):
                raise unknown(value)
