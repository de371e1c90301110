"""Who asks: a person with an API token, or a node with a key."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Person:
    """Somebody with an API token: a user of an organisation, and what the token is narrowed to (none: nothing)."""

    id: str
    name: str
    org: str
    roles: frozenset[str]
    actions: frozenset[str] = frozenset()
    token: str = ""
    org_name: str = ""
    used_at: float | None = field(default=None, compare=False)

    @property
    def actor(self) -> str:
        """How the person is named in records."""
        return f"person:{self.id}"


@dataclass(frozen=True)
class NodeIdentity:
    """A node that signed its request; its organisation is the one that its join token was made for."""

    id: str
    name: str
    organisation: str = ""
    org: str = ""

    @property
    def actor(self) -> str:
        """How the node is named in records."""
        return f"node:{self.id}"


def new_id(prefix: str) -> str:
    """An id made here: nobody else can choose or guess it."""
    return f"{prefix}_{secrets.token_hex(10)}"
