"""Who may do what: one table of actions, roles and how far each role reaches. What is not granted is refused.

Every route declares its action with :func:`acts`; the gate (:mod:`foedus.coordinator.gate`) refuses a route that
declares none, and who does not have the action. How far somebody reaches decides about the single object: ``own`` are
objects of the same user, ``org`` of the same organisation, ``all`` of anybody. What is out of reach is answered exactly
as what is not there. ``operator`` is no role to be given: it is an admin of the organisation that runs the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import ColumnElement, false, true

from foedus.coordinator.identities import Person
from foedus.domain.errors import ForbiddenError
from foedus.wire.people import Role as Role

Reach = Literal["-", "own", "org", "all"]
ORDER: tuple[Reach, ...] = ("-", "own", "org", "all")
PEOPLE = ("operator", "admin", "researcher", "node_owner", "auditor")
"""The columns of the table. A person has the farthest reach of their roles."""

POLICY: Mapping[str, tuple[Reach, Reach, Reach, Reach, Reach]] = {
    # action          operator admin researcher node_owner auditor
    "self.read": ("own", "own", "own", "own", "own"),
    "self.leave": ("own", "own", "own", "own", "own"),
    "orgs.create": ("all", "-", "-", "-", "-"),
    "orgs.read": ("all", "org", "org", "org", "org"),
    "users.create": ("all", "org", "-", "-", "-"),
    "users.read": ("all", "org", "-", "-", "org"),
    "users.change": ("all", "org", "-", "-", "-"),
    "tokens.create": ("all", "org", "own", "own", "own"),
    "tokens.read": ("all", "org", "own", "own", "org"),
    "tokens.change": ("all", "org", "own", "own", "own"),
    "nodes.invite": ("all", "org", "-", "own", "-"),
    "nodes.read": ("all", "org", "org", "own", "org"),
    "nodes.change": ("all", "org", "-", "own", "-"),
    "runs.submit": ("own", "own", "own", "-", "-"),
    "runs.read": ("org", "org", "own", "-", "org"),
    "runs.change": ("org", "org", "own", "-", "-"),
    "models.read": ("org", "org", "own", "-", "-"),
    "blobs.read": ("org", "org", "own", "-", "-"),
    "blobs.write": ("own", "own", "own", "-", "-"),
    "audit.read": ("all", "org", "-", "-", "org"),
}
"""Action → how far each role reaches."""

MACHINES: Mapping[str, frozenset[str]] = {
    "service.read": frozenset({"anyone"}),
    "node.join": frozenset({"anyone"}),
    "session.open": frozenset({"anyone"}),
    "node.work": frozenset({"node"}),
    "blobs.read": frozenset({"node"}),
    "blobs.write": frozenset({"node"}),
}
"""Action → who else may: ``anyone`` (the route itself asks for what it needs), or a ``node`` that signs."""

ACTION = "x-foedus-action"
"""Where a route's action stands in its OpenAPI description."""


def acts(action: str) -> dict[str, Any]:
    """What a route's decorator is given, so that the route can be reached: ``get("/x", **acts("runs.read"))``."""
    if action not in POLICY and action not in MACHINES:
        raise ValueError(f"{action} is not in the policy")
    return {"openapi_extra": {ACTION: action}}


def roles_of(person: Person) -> frozenset[str]:
    """The columns of the table that hold for somebody."""
    return person.roles & set(PEOPLE)


def granted(roles: frozenset[str]) -> frozenset[str]:
    """Every action that these roles have."""
    return frozenset(action for action in POLICY if _reach(action, roles) != "-")


def reach(person: Person, action: str) -> Reach:
    """How far somebody reaches with an action; a token that is narrowed reaches nowhere with another."""
    if person.actions and action not in person.actions:
        return "-"
    return _reach(action, roles_of(person))


def require(person: Person, action: str) -> None:
    """Refuse who does not have the action at all.

    Raises:
        ForbiddenError: ``role_needed``, ``token_too_narrow``.
    """
    if reach(person, action) != "-":
        return
    if _reach(action, roles_of(person)) != "-":
        raise ForbiddenError(
            "token_too_narrow",
            f"This token may not {action}.",
            f"It is narrowed to {', '.join(sorted(person.actions))}.",
            "Use another token: `foedus coordinator token create`.",
        )
    raise ForbiddenError(
        "role_needed",
        f"{action} is nothing that {person.name} may do.",
        f"The roles of {person.name}: {', '.join(sorted(person.roles - {'operator'})) or 'none'}.",
        "Ask an admin of your organisation.",
    )


def covers(person: Person, action: str, owner: str, org: str) -> bool:
    """Whether an object of this user and organisation is within somebody's reach."""
    far = reach(person, action)
    return far == "all" or (far == "org" and org == person.org != "") or (far != "-" and owner == person.id)


def within(person: Person, action: str, owner: ColumnElement[str], org: ColumnElement[str]) -> ColumnElement[bool]:
    """:func:`covers` as a condition on the rows of a table that has these columns."""
    far = reach(person, action)
    if far == "all":
        return true()
    if far == "-":
        return false()
    return (owner == person.id) | (org == person.org) if far == "org" else owner == person.id


def _reach(action: str, roles: frozenset[str]) -> Reach:
    row = dict(zip(PEOPLE, POLICY.get(action, ()), strict=False))
    nobody: Reach = "own" if action.startswith("self.") else "-"  # also who has no role yet may ask who they are
    return max((row[role] for role in roles if role in row), key=ORDER.index, default=nobody)
