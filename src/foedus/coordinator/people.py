"""Organisations and users. Use cases take a transaction and return values; every change is in the audit log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError as SqlIntegrityError

from foedus.coordinator.identities import Person, new_id
from foedus.coordinator.policy import covers, within
from foedus.domain.errors import AccessError, ConflictError, NotFoundError
from foedus.store.audit import Act, record
from foedus.store.people import organisations, users
from foedus.wire.people import ChangeUser, NewOrg, NewUser, OrgList, OrgView, UserList, UserView

LIST_LIMIT = 1000
HOME = "home"
"""The name of the organisation that runs the coordinator, and of its first user: ``admin``."""

UserRow = Row[Any]


@dataclass(frozen=True)
class Newcomer:
    """A user to be made."""

    name: str
    roles: tuple[str, ...]


COORDINATOR = "coordinator"
"""The actor of what the coordinator does of itself."""


def found(tx: Connection) -> str | None:
    """Make the operating organisation and its first admin where there is nobody yet; returns the admin's id."""
    if tx.execute(select(func.count()).select_from(users)).scalar_one():
        return None
    org = _insert_org(tx, HOME, operates=1)
    return _insert_user(tx, Newcomer("admin", ("admin",)), org, COORDINATOR)


def create_org(tx: Connection, who: Person, command: NewOrg) -> OrgView:
    """A new organisation.

    Raises:
        ConflictError: ``name_taken``.
    """
    org = _insert_org(tx, command.name, operates=0)
    record(tx, Act(who.actor, "orgs.create", org, org, detail={"name": command.name}))
    return OrgView(id=org, name=command.name, operates=False)


def list_orgs(tx: Connection, who: Person) -> OrgList:
    """The organisations that somebody may see, by name."""
    mine = within(who, "orgs.read", organisations.c.id, organisations.c.id)
    rows = tx.execute(select(organisations).where(mine).order_by(organisations.c.name).limit(LIST_LIMIT))
    return OrgList(orgs=tuple(OrgView(id=row.id, name=row.name, operates=bool(row.operates)) for row in rows))


def create_user(tx: Connection, who: Person, command: NewUser) -> UserView:
    """A new user, of the organisation of whoever asks unless another is named.

    Raises:
        NotFoundError: ``org_unknown``. ConflictError: ``name_taken``.
    """
    org = command.org or who.org
    there = tx.execute(select(organisations.c.id).where(organisations.c.id == org)).first() is not None
    if not there or not covers(who, "users.create", "", org):
        raise NotFoundError("org_unknown", "There is no such organisation.", "", "`foedus coordinator org list`.")
    return user_view(tx, _insert_user(tx, Newcomer(command.name, command.roles), org, who.actor))


def list_users(tx: Connection, who: Person) -> UserList:
    """The users that somebody may see, by name."""
    rows = tx.execute(_users().where(within(who, "users.read", users.c.id, users.c.org_id)).limit(LIST_LIMIT))
    return UserList(users=tuple(_view(row) for row in rows))


def change_user(tx: Connection, who: Person, user: str, command: ChangeUser) -> UserView:
    """Other roles, or disabled: then every token of the user is refused at once.

    Raises:
        NotFoundError: ``user_unknown``.
    """
    row = find_user(tx, who, "users.change", user)
    values: dict[str, Any] = {}
    if command.roles is not None:
        values["roles"] = sorted(set(command.roles))
    if command.disabled is not None:
        values["disabled_at"] = (row.disabled_at or time.time()) if command.disabled else None
    if values:
        tx.execute(update(users).where(users.c.id == user).values(**values))
        detail = command.model_dump(mode="json", exclude_none=True)
        record(tx, Act(who.actor, "users.change", user, row.org_id, detail=detail))
    return user_view(tx, user)


def find_user(tx: Connection, who: Person, action: str, user: str) -> UserRow:
    """A user within somebody's reach.

    Raises:
        NotFoundError: ``user_unknown``, for who is not there and for who is out of reach alike.
    """
    row = tx.execute(_users().where(users.c.id == user)).one_or_none()
    if row is None or not covers(who, action, row.id, row.org_id):
        raise NotFoundError("user_unknown", "There is no such user.", "", "`foedus coordinator user list` shows them.")
    return row


def user_view(tx: Connection, user: str) -> UserView:
    """A user who is there, whoever asks."""
    return _view(tx.execute(_users().where(users.c.id == user)).one())


def user_of_subject(tx: Connection, issuer: str, subject: str) -> UserView | None:
    """The user whom an OpenID provider knows as ``subject``."""
    row = tx.execute(_users().where(users.c.issuer == issuer, users.c.subject == subject)).one_or_none()
    return None if row is None else _view(row)


@dataclass(frozen=True)
class Entrant:
    """Who logged in: an OpenID provider's ``issuer`` and ``subject``, and what the operator's settings make of them."""

    issuer: str
    subject: str
    name: str
    org: str
    roles: tuple[str, ...]


def enter(tx: Connection, entrant: Entrant) -> str:
    """The user who logged in, made at the first login; returns their id. Roles are what the settings say now.

    An organisation that the settings name is made where it is not there; no name: the operating one. The name that the
    provider tells is only shown: it never makes somebody a user who is there already.

    Raises:
        AccessError: ``login_refused`` for a user who is disabled here.
    """
    known = user_of_subject(tx, entrant.issuer, entrant.subject)
    if known is None:
        org = _org_named(tx, entrant.org)
        name = _free_name(tx, entrant.name)
        user = _insert_user(tx, Newcomer(name, entrant.roles), org, COORDINATOR)
        link_subject(tx, user, entrant.issuer, entrant.subject)
        return user
    if known.disabled:
        raise AccessError("login_refused", "The login is refused.", "The user is disabled here.", "Ask an admin.")
    if entrant.org and (known.org, known.roles) != (entrant.org, entrant.roles):
        org = _org_named(tx, entrant.org)
        values = {"org_id": org, "roles": sorted(entrant.roles)}
        tx.execute(update(users).where(users.c.id == known.id).values(**values))
        record(tx, Act(COORDINATOR, "users.change", known.id, org, detail={"roles": list(entrant.roles)}))
    return known.id


def link_subject(tx: Connection, user: str, issuer: str, subject: str) -> None:
    """Let somebody whom an OpenID provider knows as ``subject`` be this user from now on.

    Raises:
        ConflictError: ``subject_taken`` where they are another user already.
    """
    known = user_of_subject(tx, issuer, subject)
    if known is not None and known.id != user:
        raise ConflictError("subject_taken", "This login is another user's.", "", "Ask an admin.")
    tx.execute(update(users).where(users.c.id == user).values(issuer=issuer, subject=subject))
    org = tx.execute(select(users.c.org_id).where(users.c.id == user)).scalar_one()
    record(tx, Act(COORDINATOR, "users.link", user, org, detail={"issuer": issuer}))


def _users() -> Select[Any]:
    home = organisations.c.id == users.c.org_id
    names = (organisations.c.name.label("org_name"), organisations.c.operates)
    return select(users, *names).join(organisations, home).order_by(users.c.name)


def _insert_org(tx: Connection, name: str, operates: int) -> str:
    _check_free(tx, select(organisations.c.id).where(organisations.c.name == name), name)
    org = new_id("org")
    row = {"id": org, "name": name, "operates": operates, "created_at": time.time()}
    try:
        tx.execute(insert(organisations).values(**row))
    except SqlIntegrityError as error:
        raise _taken(name) from error
    return org


def _org_named(tx: Connection, name: str) -> str:
    where = organisations.c.name == name if name else organisations.c.operates == 1
    org = tx.execute(select(organisations.c.id).where(where)).scalar_one_or_none()
    return str(org) if org else _insert_org(tx, name, operates=0)


def _free_name(tx: Connection, name: str) -> str:
    taken = set(tx.execute(select(users.c.name).where(users.c.name.startswith(name, autoescape=True))).scalars())
    return next(one for one in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if one not in taken)


def _insert_user(tx: Connection, command: Newcomer, org: str, actor: str) -> str:
    _check_free(tx, select(users.c.id).where(users.c.name == command.name), command.name)
    user, roles = new_id("us"), sorted(set(command.roles))
    row = {"id": user, "name": command.name, "org_id": org, "roles": roles, "created_at": time.time()}
    try:
        tx.execute(insert(users).values(**row))
    except SqlIntegrityError as error:
        raise _taken(command.name) from error
    record(tx, Act(actor, "users.create", user, org, detail={"name": command.name, "roles": list(roles)}))
    return user


def _check_free(tx: Connection, query: Select[Any], name: str) -> None:
    if tx.execute(query).first() is not None:
        raise _taken(name)


def _taken(name: str) -> ConflictError:
    return ConflictError("name_taken", f"The name {name} is taken.", "", "Choose another name.")


def _view(row: UserRow) -> UserView:
    return UserView(
        id=row.id,
        name=row.name,
        org=row.org_name,
        org_id=row.org_id,
        roles=tuple(row.roles),
        disabled=row.disabled_at is not None,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
    )
