"""A login becomes a token, and a token ends. Use cases take a transaction and return values."""

from __future__ import annotations

from sqlalchemy import Connection

from foedus.coordinator.identities import Person
from foedus.coordinator.login import Known
from foedus.coordinator.people import Entrant, enter
from foedus.coordinator.tokens import Grant, end_token, issue
from foedus.wire.people import Token


def sign_in(tx: Connection, known: Known, hours: float) -> Token:
    """A new token for who logged in. The operator's grants say their organisation, and their roles in it.

    Raises:
        AccessError: ``login_refused`` for a user who is disabled here.
    """
    org = known.grants[0][0] if known.grants else ""
    roles = tuple(sorted({role for where, role in known.grants if where == org}))
    user = enter(tx, Entrant(known.issuer, known.subject, known.name, org, roles))
    return issue(tx, f"person:{user}", Grant(user, "login", hours * 3600, kind="session"))


def sign_out(tx: Connection, who: Person) -> None:
    """End the token that somebody came with: it is refused from now on."""
    end_token(tx, who)
