"""Messages about people: organisations, users and their API tokens.

Paths are under ``/api/v1``; who may do what is :mod:`foedus.coordinator.policy`'s to say.

============================  ====================  ==================================================
path                          message → reply       what
============================  ====================  ==================================================
POST /orgs, GET /orgs         NewOrg → OrgView
POST /users, GET /users       NewUser → UserView    somebody of an organisation, with roles
PATCH /users/{id}             ChangeUser → UserView other roles; disabled, or enabled again
POST /tokens, GET /tokens     NewToken → Token      the secret is shown this once
POST /tokens/{id}/rotate      RotateToken → Token   a successor; the old one is valid for a while yet
POST /tokens/{id}/revoke      → TokenView           refused from now on
============================  ====================  ==================================================
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from foedus.wire.messages import Id, Message, Name, Secret

Role = Literal["admin", "researcher", "node_owner", "auditor"]
Action = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}\.[a-z]{1,20}$")]
Actions = Annotated[tuple[Action, ...], Field(max_length=100)]
Days = Annotated[float, Field(gt=0, le=366, allow_inf_nan=False)]

TOKEN_DAYS = 90.0
OVERLAP_SECONDS = 3600.0
"""How long a token that was rotated is still taken, unless another time is asked for."""


class NewOrg(Message):
    """Ask for an organisation."""

    name: Name


class OrgView(Message):
    """An organisation; one ``operates`` the coordinator."""

    id: Id
    name: Name
    operates: bool


class OrgList(Message):
    """Organisations by name."""

    orgs: tuple[OrgView, ...]


class NewUser(Message):
    """Ask for a user. ``org`` is an organisation's id; none: that of whoever asks."""

    name: Name
    org: Id | None = None
    roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=4)]


class ChangeUser(Message):
    """Give a user other roles, or disable or enable them. Nothing else can be changed."""

    roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=4)] | None = None
    disabled: bool | None = None


class UserView(Message):
    """A user as people see them; ``org`` is the name of their organisation."""

    id: Id
    name: Name
    org: Name
    org_id: Id
    roles: tuple[str, ...]
    disabled: bool
    created_at: datetime


class UserList(Message):
    """Users by name."""

    users: tuple[UserView, ...]


class NewToken(Message):
    """Ask for an API token, for whoever asks or for ``user`` (an id). ``actions`` narrow it; none: all there are."""

    name: Name
    user: Id | None = None
    actions: Actions = ()
    days: Days = TOKEN_DAYS


class RotateToken(Message):
    """Ask for a token's successor; the old one is valid for ``overlap`` more seconds, a day at most."""

    overlap: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = OVERLAP_SECONDS
    days: Days = TOKEN_DAYS


class Token(Message):
    """An API token; the secret ``token`` is shown this once and stored hashed."""

    id: Id
    name: Name
    user: Name
    roles: tuple[str, ...]
    actions: Actions
    expires_at: datetime
    token: Secret


class TokenView(Message):
    """A token as people see it, without its secret."""

    id: Id
    name: Name
    user: Name
    kind: str
    actions: Actions
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked: bool


class TokenList(Message):
    """Tokens that have not expired, by user and name."""

    tokens: tuple[TokenView, ...]
