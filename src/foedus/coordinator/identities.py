"""Who asks: a person with an API token, or a node with a key."""

from __future__ import annotations

import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Somebody with an API token."""

    name: str
    role: str

    @property
    def actor(self) -> str:
        """How the person is named in records."""
        return f"person:{self.name}"


@dataclass(frozen=True)
class NodeIdentity:
    """A node that signed its request."""

    id: str
    name: str

    @property
    def actor(self) -> str:
        """How the node is named in records."""
        return f"node:{self.id}"


def new_id(prefix: str) -> str:
    """An id made here: nobody else can choose or guess it."""
    return f"{prefix}_{secrets.token_hex(10)}"
