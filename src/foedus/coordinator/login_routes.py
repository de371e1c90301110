"""The door for logins: browsers go to the provider and come back, programs wait for their person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response

from foedus.coordinator import login
from foedus.coordinator.context import context
from foedus.coordinator.http import parse, person, read_body
from foedus.coordinator.identities import Person
from foedus.coordinator.login import CALLBACK
from foedus.coordinator.login_settings import Login
from foedus.coordinator.oidc import Provider
from foedus.coordinator.policy import acts
from foedus.coordinator.sessions import end_session, keep_login, keep_session, login_secret
from foedus.coordinator.signing_in import sign_in, sign_out
from foedus.wire.people import Token
from foedus.wire.trust import DeviceLogin, LoggedOut, LoginState, PollLogin, Whoami

router = APIRouter()
Who = Annotated[Person, Depends(person)]
Result = TypeVar("Result")
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>foedus</title>
<p>You are logged in as <b>{name}</b>. This page can be closed.</p></html>"""
PLAIN = {"Content-Security-Policy": "default-src 'none'", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


@router.get("/login", tags=["login"], response_model=None, status_code=303, **acts("session.open"))
async def get_login(request: Request) -> Response:
    """Send a browser to the login provider."""
    settings, provider = _login(request)
    begun = await _do(lambda: login.begin(provider, _callback(request, settings)))
    reply = Response(status_code=303, headers={"Location": begun.url, **PLAIN})
    keep_login(request, reply, begun.secret)
    return reply


@router.get(CALLBACK, tags=["login"], response_model=None, **acts("session.open"))
async def get_callback(request: Request) -> Response:
    """Take a browser back from the login provider; it has a session from now on."""
    settings, provider = _login(request)
    query, secret = dict(request.query_params), login_secret(request)
    token = await _do(
        lambda: _sign_in(request, settings, login.finish(provider, _callback(request, settings), secret, query))
    )
    reply = Response(PAGE.format(name=token.user), media_type="text/html", headers=PLAIN)
    keep_session(request, reply, token.token, int(settings.hours * 3600))
    return reply


@router.post("/api/v1/login/device", tags=["login"], **acts("session.open"))
async def post_device(request: Request) -> DeviceLogin:
    """Begin a login at a terminal: its person opens a page elsewhere, and agrees there."""
    _, provider = _login(request)
    device = await _do(provider.begin_device)
    return DeviceLogin(
        device=device.device_code,
        code=device.user_code,
        url=device.verification_uri_complete or device.verification_uri,
        expires_in=device.expires_in,
        interval=max(1, device.interval),
    )


@router.post("/api/v1/login/device/poll", tags=["login"], **acts("session.open"))
async def post_poll(request: Request) -> LoginState:
    """The token of a login at a terminal, once its person has agreed."""
    settings, provider = _login(request)
    command = parse(PollLogin, await read_body(request))

    def look() -> LoginState:
        found = provider.poll_device(command.device)
        if found == "authorization_pending" or found == "slow_down":
            return LoginState(state="slow_down" if found == "slow_down" else "pending")
        token = _sign_in(request, settings, provider.verify(found, None))
        return LoginState(state="done", token=token.token, name=token.user)

    return await _do(look)


@router.post("/api/v1/logout", tags=["login"], **acts("self.leave"))
async def post_logout(request: Request, response: Response, who: Who) -> LoggedOut:
    """End the token or session that the request comes with."""

    def effect() -> None:
        with context(request).store.transaction("logout") as tx:
            sign_out(tx, who)

    await _do(effect)
    end_session(request, response)
    return LoggedOut(name=who.name)


@router.get("/api/v1/whoami", tags=["login"], **acts("self.read"))
def get_whoami(who: Who) -> Whoami:
    """Who the caller is here."""
    roles = ", ".join(sorted(who.roles - {"operator"}))
    return Whoami(name=who.name, role=roles, organisation=who.org_name)


def _sign_in(request: Request, settings: Login, claims: dict[str, Any]) -> Token:
    found = login.known(settings, claims)
    with context(request).store.transaction("login") as tx:
        return sign_in(tx, found, settings.hours)


def _login(request: Request) -> tuple[Login, Provider]:
    parts = context(request)
    settings, provider = parts.settings.login, parts.guards.provider
    if settings is None or provider is None:
        raise login.missing()
    return settings, provider


def _callback(request: Request, settings: Login) -> str:
    """Where the provider sends browsers back: set by the operator, never taken from a request."""
    return (settings.url or context(request).settings.url).rstrip("/") + CALLBACK


async def _do(effect: Callable[[], Result]) -> Result:
    return await to_thread.run_sync(effect)
