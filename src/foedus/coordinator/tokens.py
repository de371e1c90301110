"""API tokens of people: made, recognised, rotated, revoked. Only hashes are kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select, update

from foedus.coordinator.identities import Person, new_id
from foedus.coordinator.people import COORDINATOR, find_user, found
from foedus.coordinator.policy import covers, granted, within
from foedus.domain.errors import AccessError, ConflictError, ForbiddenError, NotFoundError
from foedus.domain.plain import Json
from foedus.store.audit import Act, record
from foedus.store.people import api_tokens, organisations, users
from foedus.wire.people import TOKEN_DAYS, NewToken, RotateToken, Token, TokenList, TokenView
from foedus.wire.signing import hash_secret, new_secret

DAY = 86400.0
LIST_LIMIT = 1000
USED = 60.0
"""Seconds for which a token counts as used without being noted again."""

TokenRow = Row[Any]


@dataclass(frozen=True)
class Grant:
    """A token to be made: whose, its name and kind, what it is narrowed to, and for how many seconds."""

    user: str
    name: str
    seconds: float
    actions: tuple[str, ...] = ()
    kind: str = "api"


def first_admin(tx: Connection) -> Token | None:
    """An admin's token where there is no user yet, at the first start."""
    admin = found(tx)
    return None if admin is None else issue(tx, COORDINATOR, Grant(admin, "first", TOKEN_DAYS * DAY))


def recover_admin(tx: Connection) -> Token:
    """A token for the first admin of the operating organisation, who is enabled again: for who has the database.

    Raises:
        NotFoundError: ``admin_missing``.
    """
    operating = select(users).join(organisations, organisations.c.id == users.c.org_id)
    rows = tx.execute(operating.where(organisations.c.operates == 1).order_by(users.c.created_at)).all()
    admin = next((row for row in rows if "admin" in row.roles), None)
    if admin is None:
        raise NotFoundError("admin_missing", "The operating organisation has no admin.", "", "Start the coordinator.")
    tx.execute(update(users).where(users.c.id == admin.id).values(disabled_at=None))
    return issue(tx, COORDINATOR, Grant(admin.id, "recovered", TOKEN_DAYS * DAY))


def issue(tx: Connection, actor: str, grant: Grant) -> Token:
    """A token as granted; who may have it was judged before."""
    secret, token, now = new_secret("fdp"), new_id("tk"), time.time()
    actions: list[Json] = [*sorted(set(grant.actions))]
    row = {
        "id": token,
        "hash": hash_secret(secret),
        "user_id": grant.user,
        "name": grant.name,
        "kind": grant.kind,
        "actions": actions,
        "created_at": now,
        "expires_at": now + grant.seconds,
    }
    tx.execute(insert(api_tokens).values(**row))
    user = tx.execute(select(users).where(users.c.id == grant.user)).one()
    detail: dict[str, Json] = {"user": grant.user, "name": grant.name, "kind": grant.kind, "actions": actions}
    record(tx, Act(actor, "tokens.create", token, user.org_id, detail=detail))
    return Token(
        id=token,
        name=grant.name,
        user=user.name,
        roles=tuple(user.roles),
        actions=tuple(sorted(set(grant.actions))),
        expires_at=_moment(now + grant.seconds),
        token=secret,
    )


def create_token(tx: Connection, who: Person, command: NewToken) -> Token:
    """A token for whoever asks, or for a user within their reach.

    Raises:
        NotFoundError: ``user_unknown``. ForbiddenError: ``token_too_wide``.
    """
    user = find_user(tx, who, "tokens.create", command.user or who.id)
    _check_width(who, command.actions, user)
    return issue(tx, who.actor, Grant(user.id, command.name, command.days * DAY, command.actions))


def list_tokens(tx: Connection, who: Person) -> TokenList:
    """The tokens that somebody may see and that have not expired, by user and name."""
    mine = (within(who, "tokens.read", users.c.id, users.c.org_id), api_tokens.c.expires_at > time.time())
    rows = tx.execute(_tokens().where(*mine).order_by(users.c.name, api_tokens.c.name).limit(LIST_LIMIT))
    return TokenList(tokens=tuple(map(_view, rows)))


def rotate_token(tx: Connection, who: Person, token: str, command: RotateToken) -> Token:
    """A successor of a token, for its user and its actions; the old one is taken for a while yet.

    Raises:
        NotFoundError: ``token_unknown``. ConflictError: ``token_ended``. ForbiddenError: ``token_too_wide``.
    """
    row, now = _find(tx, who, token), time.time()
    if row.revoked_at is not None or row.expires_at <= now:
        raise ConflictError("token_ended", "The token is revoked or has expired.", "", "Make a new one.")
    if token != who.token:
        _check_width(who, tuple(row.actions), row)
    until = min(row.expires_at, now + command.overlap)
    tx.execute(update(api_tokens).where(api_tokens.c.id == token).values(expires_at=until))
    record(tx, Act(who.actor, "tokens.rotate", token, row.org_id, detail={"overlap": command.overlap}))
    return issue(tx, who.actor, Grant(row.user_id, row.name, command.days * DAY, tuple(row.actions), row.kind))


def revoke_token(tx: Connection, who: Person, token: str) -> TokenView:
    """Refuse a token from now on; revoked twice, it is revoked once.

    Raises:
        NotFoundError: ``token_unknown``.
    """
    row = _find(tx, who, token)
    if row.revoked_at is None:
        tx.execute(update(api_tokens).where(api_tokens.c.id == token).values(revoked_at=time.time()))
        record(tx, Act(who.actor, "tokens.revoke", token, row.org_id))
    return _view(_find(tx, who, token))


def end_token(tx: Connection, who: Person) -> None:
    """End the token that somebody came with: it is refused from now on."""
    tx.execute(update(api_tokens).where(api_tokens.c.id == who.token).values(revoked_at=time.time()))
    record(tx, Act(who.actor, "tokens.revoke", who.token, who.org))


def authenticate(tx: Connection, secret: str) -> Person:
    """The person who holds this token.

    Raises:
        AccessError: ``token_refused``, ``token_expired``.
    """
    row = tx.execute(_tokens().where(api_tokens.c.hash == hash_secret(secret))).one_or_none()
    if row is None or row.revoked_at is not None or row.disabled_at is not None:
        raise AccessError(
            "token_refused", "The token is not known here.", "", "Set FOEDUS_TOKEN to a token of this coordinator."
        )
    if row.expires_at <= time.time():
        raise AccessError(
            "token_expired", "The token has expired.", "", "Make a new one: `foedus coordinator token create`."
        )
    roles = set(row.roles) | ({"operator"} if row.operates and "admin" in row.roles else set())
    return Person(
        row.user_id, row.user, row.org_id, frozenset(roles), frozenset(row.actions), row.id, row.org_name, row.used_at
    )


def note_use(tx: Connection, token: str) -> None:
    """Remember that a token was used."""
    tx.execute(update(api_tokens).where(api_tokens.c.id == token).values(used_at=time.time()))


def use_is_due(person: Person) -> bool:
    """Whether the use of a person's token is to be noted again."""
    return person.used_at is None or time.time() - person.used_at > USED


def _check_width(who: Person, actions: tuple[str, ...], user: Row[Any]) -> None:
    """Nobody makes a token that may do more than its user may, or than the token with which it is made."""
    roles = frozenset(user.roles) | ({"operator"} if user.operates and "admin" in user.roles else frozenset())
    beyond = set(actions) - granted(roles)
    if who.actions:
        beyond |= (set(actions) or granted(roles)) - who.actions
    if beyond:
        raise ForbiddenError(
            "token_too_wide",
            f"The token would have actions that it cannot be given: {', '.join(sorted(beyond)[:8])}.",
            "A token has at most what its user has, and what the token that makes it has.",
            "Name other actions with --action.",
        )


def _find(tx: Connection, who: Person, token: str) -> TokenRow:
    row = tx.execute(_tokens().where(api_tokens.c.id == token)).one_or_none()
    if row is None or not covers(who, "tokens.change", row.user_id, row.org_id):
        raise NotFoundError("token_unknown", "There is no such token.", "", "`foedus coordinator token list` has them.")
    return row


def _tokens() -> Select[Any]:
    of_user = (users.c.name.label("user"), users.c.org_id, users.c.roles, users.c.disabled_at)
    of_org = (organisations.c.operates, organisations.c.name.label("org_name"))
    query = select(api_tokens, *of_user, *of_org).join(users, users.c.id == api_tokens.c.user_id)
    return query.join(organisations, organisations.c.id == users.c.org_id)


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _view(row: TokenRow) -> TokenView:
    return TokenView(
        id=row.id,
        name=row.name,
        user=row.user,
        kind=row.kind,
        actions=tuple(row.actions),
        created_at=_moment(row.created_at),
        expires_at=_moment(row.expires_at),
        used_at=None if row.used_at is None else _moment(row.used_at),
        revoked=row.revoked_at is not None,
    )
