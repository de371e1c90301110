"""The door to people: organisations, users and tokens.

Replies that hold a secret are not kept for idempotency: asked again, another secret is made.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from foedus.coordinator import people, tokens
from foedus.coordinator.http import change, idempotency_key, once, parse, person, read, read_body
from foedus.coordinator.identities import Person
from foedus.coordinator.policy import acts
from foedus.wire.people import (
    ChangeUser,
    NewOrg,
    NewToken,
    NewUser,
    OrgList,
    OrgView,
    RotateToken,
    Token,
    TokenList,
    TokenView,
    UserList,
    UserView,
)

router = APIRouter(prefix="/api/v1", tags=["people"])
Who = Annotated[Person, Depends(person)]


@router.post("/orgs", **acts("orgs.create"))
async def post_org(request: Request, who: Who) -> OrgView:
    """A new organisation."""
    key, body = idempotency_key(request), await read_body(request)
    command = parse(NewOrg, body)
    effect = lambda tx: once(tx, who.actor, key, body, lambda: people.create_org(tx, who, command))  # noqa: E731
    return OrgView.model_validate(await change(request, "org", effect))


@router.get("/orgs", **acts("orgs.read"))
def get_orgs(request: Request, who: Who) -> OrgList:
    """The organisations that whoever asks may see."""
    return read(request, lambda tx: people.list_orgs(tx, who))


@router.post("/users", **acts("users.create"))
async def post_user(request: Request, who: Who) -> UserView:
    """A new user."""
    key, body = idempotency_key(request), await read_body(request)
    command = parse(NewUser, body)
    effect = lambda tx: once(tx, who.actor, key, body, lambda: people.create_user(tx, who, command))  # noqa: E731
    return UserView.model_validate(await change(request, "user", effect))


@router.get("/users", **acts("users.read"))
def get_users(request: Request, who: Who) -> UserList:
    """The users that whoever asks may see."""
    return read(request, lambda tx: people.list_users(tx, who))


@router.patch("/users/{user}", **acts("users.change"))
async def patch_user(request: Request, user: str, who: Who) -> UserView:
    """Other roles, or disabled, or enabled again."""
    command = parse(ChangeUser, await read_body(request))
    return await change(request, "user", lambda tx: people.change_user(tx, who, user, command))


@router.post("/tokens", **acts("tokens.create"))
async def post_token(request: Request, who: Who) -> Token:
    """An API token, shown this once."""
    command = parse(NewToken, await read_body(request))
    return await change(request, "token", lambda tx: tokens.create_token(tx, who, command))


@router.get("/tokens", **acts("tokens.read"))
def get_tokens(request: Request, who: Who) -> TokenList:
    """The tokens that whoever asks may see, without their secrets."""
    return read(request, lambda tx: tokens.list_tokens(tx, who))


@router.post("/tokens/{token}/rotate", **acts("tokens.change"))
async def post_rotate(request: Request, token: str, who: Who) -> Token:
    """A token's successor; the old one is taken for a while yet."""
    command = parse(RotateToken, await read_body(request) or b"{}")
    return await change(request, "token", lambda tx: tokens.rotate_token(tx, who, token, command))


@router.post("/tokens/{token}/revoke", **acts("tokens.change"))
async def post_revoke_token(request: Request, token: str, who: Who) -> TokenView:
    """Refuse a token from now on."""
    return await change(request, "token", lambda tx: tokens.revoke_token(tx, who, token))
