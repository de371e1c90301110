"""Case 51: every endpoint × every role × (own, a colleague's, another organisation's), generated from the OpenAPI list.

Who lacks the action is refused, and what is out of reach is answered exactly as what is not there.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from foedus.coordinator.app import create_app
from foedus.coordinator.policy import ACTION, MACHINES, PEOPLE, POLICY, covers, reach
from tests.unit.coordinator.door import API, code, opened
from tests.unit.coordinator.town import ROLES, Owner, Town, belongings, town

DOCUMENTS = {"/openapi.json", "/docs"}
"""What everybody may read: the description of the API."""

REFUSALS = {"role_needed", "token_too_narrow", "action_undeclared"}
UNKNOWN = {"run_unknown", "node_unknown", "client_unknown", "token_unknown", "user_unknown", "org_unknown"} | {
    "blob_unknown",
    "upload_unknown",
}
FRESH = {"run": "run_0000", "node": "nd_0000", "client": "nobody", "token": "tk_0000", "user": "us_0000"} | {
    "digest": "f" * 64,
    "upload": "up_0000",
    "org": "org_0000",
}
"""Names of what is not there."""

INNER = {"number": "0", "webhook": "wh_0000", "assignment": "as_0000"}
"""What a path names within an object: not there either, but told with a code of its own."""


@dataclass(frozen=True)
class Endpoint:
    """A method and a path of the OpenAPI list, and the action that it declares."""

    method: str
    path: str
    action: str

    @property
    def names(self) -> list[str]:
        """The objects that a request names: in its path, or in its body."""
        inside = {"/api/v1/users": ["org"], "/api/v1/tokens": ["user"]} if self.method == "POST" else {}
        return [name for name in re.findall(r"{(\w+)}", self.path) if name in FRESH] or inside.get(self.path, [])

    def ask(self, found: Town, token: str, objects: dict[str, str]) -> httpx.Response:
        """Call it with these objects; streams are not read."""
        path = re.sub(r"{(\w+)}", lambda match: {**INNER, **objects}[match.group(1)], self.path)
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": secrets.token_hex(8)}
        request = found.door.client.build_request(
            self.method, found.door.url + path, headers=headers, content=self.body(objects)
        )
        reply = found.door.client.send(request, stream=True)
        if not reply.headers.get("content-type", "").startswith("text/event-stream"):
            reply.read()
        reply.close()
        return reply

    def body(self, objects: dict[str, str]) -> bytes:
        """A body that changes nothing that another call needs."""
        name = f"n-{secrets.token_hex(6)}"
        bodies: dict[str, Any] = {
            "/api/v1/users": {"name": name, "roles": ["auditor"], "org": objects.get("org")},
            "/api/v1/tokens": {"name": name, "user": objects.get("user")},
            "/api/v1/orgs": {"name": name},
            "/api/v1/users/{user}": {},
        }
        return json.dumps(bodies[self.path]).encode() if self.method != "GET" and self.path in bodies else b""


def endpoints(found: Town) -> list[Endpoint]:
    """Every endpoint that the coordinator describes."""
    paths = found.door.client.get(f"{found.door.url}/openapi.json").json()["paths"]
    return [
        Endpoint(method.upper(), path, operation.get(ACTION, ""))
        for path, operations in paths.items()
        for method, operation in operations.items()
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("coordinator")) as made:
        yield made


def test_case_51_a_route_without_a_declared_action_cannot_be_reached(tmp_path_factory: pytest.TempPathFactory) -> None:
    with opened(tmp_path_factory.mktemp("coordinator")) as door:
        app = create_app(door.parts)
        routes = [route for route in _routes(app.routes) if getattr(route, "path", "") not in DOCUMENTS]
        assert len(routes) > 40
        for route in routes:
            assert isinstance(route, APIRoute), route
            action = (route.openapi_extra or {}).get(ACTION)
            assert action in POLICY or action in MACHINES, f"{route.methods} {route.path} declares no action"
        app.add_api_route("/api/v1/forgotten", lambda: {"secret": 1}, methods=["GET"])
        reply = asyncio.run(_get(app, "/api/v1/forgotten", door.token))
        assert (reply.status_code, reply.json()["code"]) == (403, "action_undeclared")


@pytest.mark.parametrize("whose", ["own", "org", "foreign"])
@pytest.mark.parametrize("role", ROLES)
def test_case_51_d13_every_endpoint_holds_to_the_table(role: str, whose: str, found: Town) -> None:
    who, other, asked = found.people[role], found.other(role, whose), 0
    fresh = replace(other, owned=belongings(found.door, other.person))
    for endpoint in sorted(endpoints(found), key=lambda one: one.path.endswith("/revoke")):
        if endpoint.action not in POLICY or endpoint.action == "self.leave":  # it would end the token
            continue
        asked += 1
        _hold(found, endpoint, who, fresh)
    assert asked > 30


def _hold(found: Town, endpoint: Endpoint, who: Owner, other: Owner) -> None:
    reply = endpoint.ask(found, who.token, dict(other.owned))
    told = (
        f"{endpoint.method} {endpoint.path} by {sorted(who.person.roles)}, of {other.person.name}: {reply.status_code}"
    )
    if reach(who.person, endpoint.action) == "-":
        assert (reply.status_code, _code(reply)) == (403, "role_needed" if reply.content else ""), told
        return
    action = "models.read" if endpoint.action == "blobs.read" else endpoint.action
    within_reach = _writes_own(endpoint) or covers(who.person, action, other.person.id, other.person.org)
    if endpoint.names and not within_reach:
        unknown = endpoint.ask(found, who.token, FRESH)
        assert reply.status_code == unknown.status_code == 404, told
        assert _without_names(reply, dict(other.owned)) == _without_names(unknown, FRESH), told
        assert _code(reply) in UNKNOWN | ({""} if endpoint.method == "HEAD" else set()), told
        return
    assert reply.status_code != 401, told
    if reply.headers.get("content-type") == "application/problem+json":
        allowed = (
            {"upload_unknown"} if endpoint.path.startswith("/api/v1/uploads/") and who.person != other.person else set()
        )
        assert _code(reply) not in (REFUSALS | UNKNOWN) - allowed, told


def _code(reply: httpx.Response) -> str:
    """The code of a problem; a reply to HEAD has no body to tell it."""
    return code(reply) if reply.content else ""


def _writes_own(endpoint: Endpoint) -> bool:
    """PUT of a blob names bytes, not an object: who sends them has them. Uploads are their sender's alone."""
    return endpoint.action == "blobs.write" and endpoint.path.startswith("/api/v1/blobs/")


def _without_names(reply: httpx.Response, names: dict[str, str]) -> Any:
    """A reply with the names that were asked for taken out, the longest first."""
    text = reply.text
    for name in sorted({*names.values(), *(value[:12] for value in names.values())}, key=len, reverse=True):
        text = text.replace(name, "NAME") if name else text
    kept = {key: value for key, value in reply.headers.items() if key in ("content-type", "cache-control", "etag")}
    return reply.status_code, text, kept


def test_case_51_nobody_comes_in_without_a_token_or_a_signature(found: Town) -> None:
    for endpoint in endpoints(found):
        reply = found.door.client.request(endpoint.method, found.door.url + re.sub(r"{\w+}", "x_1", endpoint.path))
        machines = MACHINES.get(endpoint.action, frozenset())
        if "anyone" in machines:
            assert reply.status_code != 401 or endpoint.action in ("node.join", "session.open"), endpoint
        else:
            assert reply.status_code == 401, endpoint


def test_case_51_d13_a_node_does_what_nodes_do_and_nothing_else(found: Town) -> None:
    objects = {**INNER, **found.stranger.owned}
    for endpoint in endpoints(found):
        path = re.sub(r"{(\w+)}", lambda match: objects[match.group(1)], endpoint.path)
        if not path.startswith(API) or "anyone" in MACHINES.get(endpoint.action, frozenset()):
            continue
        reply = found.door.signed(found.node, endpoint.method, path.removeprefix(API))
        if "node" in MACHINES.get(endpoint.action, frozenset()):
            assert reply.status_code not in (401, 403), (endpoint, reply.text)
            assert endpoint.method == "PUT" or reply.status_code >= 400, (endpoint, reply.text)
        else:
            assert (reply.status_code, code(reply)) == (401, "token_missing"), endpoint


LISTS = {
    "/runs": ("runs", "run"),
    "/nodes": ("nodes", "node"),
    "/users": ("users", "user"),
    "/tokens": ("tokens", "token"),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("path", LISTS)
def test_case_51_lists_have_what_is_within_reach_and_nothing_else(path: str, role: str, found: Town) -> None:
    who, (key, name) = found.people[role], LISTS[path]
    action = f"{key}.read"
    reply = found.door.ask("GET", path, token=who.token)
    if reach(who.person, action) == "-":
        assert code(reply) == "role_needed"
        return
    seen = {row["id"] for row in reply.json()[key]}
    for other in {
        id(one): one for one in (*found.people.values(), *found.colleagues.values(), found.stranger)
    }.values():
        expected = covers(who.person, action, other.person.id, other.person.org)
        assert (other.owned[name] in seen) is expected, (path, role, sorted(other.person.roles))


def test_the_table_has_a_cell_for_every_role_and_no_role_reaches_farther_than_the_operator() -> None:
    order = ("-", "own", "org", "all")
    for action, row in POLICY.items():
        assert len(row) == len(PEOPLE), action
        if not action.startswith(("runs.", "models.", "blobs.", "self.")):
            assert order.index(row[0]) == max(map(order.index, row)), action
    assert {row for action, row in POLICY.items() if action.startswith(("orgs.create",))} == {
        ("all", "-", "-", "-", "-")
    }


def _routes(routes: Any) -> Iterator[Any]:
    """Every route, of included routers as well."""
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        if inner is None:
            yield route
        else:
            yield from _routes(inner)


async def _get(app: FastAPI, path: str, token: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        return await client.get(path, headers={"Authorization": f"Bearer {token}"})
