"""Who may do what. Everything that is not granted is refused."""

from __future__ import annotations

from typing import Literal

from foedus.coordinator.identities import Person
from foedus.domain.errors import ForbiddenError

Role = Literal["admin", "researcher"]
GRANTS: dict[str, frozenset[str]] = {
    "admin": frozenset({"admin", "researcher"}),
    "researcher": frozenset({"researcher"}),
}
"""What each role may act as. Everything that is not granted is refused."""


def require(person: Person, role: Role) -> None:
    """Refuse a person who may not act as ``role``.

    Raises:
        ForbiddenError: ``role_needed``.
    """
    if role not in GRANTS.get(person.role, frozenset()):
        raise ForbiddenError(
            "role_needed",
            f"This needs the role {role}; {person.name} is {person.role}.",
            "",
            "Ask an admin of this coordinator.",
        )
