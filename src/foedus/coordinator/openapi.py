"""The OpenAPI description, with the messages that routes take.

Routes read their bodies themselves (a node's signature covers the bytes), so FastAPI cannot know what they take.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from foedus.wire.audit import ReadAudit
from foedus.wire.messages import (
    Contribute,
    Fail,
    Hello,
    JoinNode,
    NewUpload,
    Poll,
    Problem,
    Renew,
    SubmitRun,
)
from foedus.wire.people import ChangeUser, NewOrg, NewToken, NewUser, RotateToken
from foedus.wire.trust import NewJoinToken, PollLogin, RotateKey

TAKES: dict[tuple[str, str], type[BaseModel]] = {
    ("post", "/api/v1/runs"): SubmitRun,
    ("post", "/api/v1/orgs"): NewOrg,
    ("post", "/api/v1/node/audit"): ReadAudit,
    ("post", "/api/v1/users"): NewUser,
    ("patch", "/api/v1/users/{user}"): ChangeUser,
    ("post", "/api/v1/tokens"): NewToken,
    ("post", "/api/v1/tokens/{token}/rotate"): RotateToken,
    ("post", "/api/v1/uploads"): NewUpload,
    ("post", "/api/v1/join-tokens"): NewJoinToken,
    ("post", "/api/v1/login/device/poll"): PollLogin,
    ("post", "/api/v1/node/rotate-key"): RotateKey,
    ("post", "/api/v1/node/join"): JoinNode,
    ("post", "/api/v1/node/hello"): Hello,
    ("post", "/api/v1/node/poll"): Poll,
    ("post", "/api/v1/node/assignments/{assignment}/renew"): Renew,
    ("post", "/api/v1/node/assignments/{assignment}/contribute"): Contribute,
    ("post", "/api/v1/node/assignments/{assignment}/fail"): Fail,
}
"""What is sent to each path, by method."""

REFERENCE = "#/components/schemas/{model}"


def describe(app: FastAPI) -> dict[str, Any]:
    """The description of every route, with requests, replies and the problem that every error is."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, description="Runs, nodes, blobs.")
    messages = [(model, "validation") for model in {*TAKES.values(), Problem}]
    _, definitions = models_json_schema(messages, ref_template=REFERENCE)  # type: ignore[arg-type]
    document["components"]["schemas"] |= definitions["$defs"]
    document["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "signature": {"type": "apiKey", "in": "header", "name": "Signature", "description": "RFC 9421, Ed25519"},
    }
    problem = {"application/problem+json": {"schema": {"$ref": REFERENCE.format(model="Problem")}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "A problem, with a stable code.", "content": problem}
            if path.startswith("/api/"):
                operation["security"] = [{"signature": []}] if "/node/" in path else [{"token": []}, {"signature": []}]
            if (method, path) in TAKES:
                body = {"$ref": REFERENCE.format(model=TAKES[method, path].__name__)}
                operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return document
