"""What the security log says of assignments: one line each for a request, the start and the end of its work, a refusal.

What ``foedus node history`` tells is read from these lines. Of a table's schema there is a line too: that it was told,
or refused. They are written in a thread: the disk may take its time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Literal

from foedus.node.security import Event, Fact
from foedus.node.vault import Vault
from foedus.wire.messages import Assignment, SchemaAsk

REQUEST, STARTED, ENDED, REFUSED = "request", "round_started", "round_ended", "refused"
SCHEMA_TOLD, SCHEMA_REFUSED = "schema_told", "schema_refused"

Outcome = Literal["contributed", "failed", "withdrawn"]
"""``withdrawn``: nobody waited for it any more, or this node stopped."""


async def requested(vault: Vault, assignments: Sequence[Assignment]) -> None:
    """The coordinator asked for this work.

    Raises:
        StorageError: ``audit_unwritable``, as the others here.
    """
    if assignments:
        events = [Event(REQUEST, each.run, _words(each), facts_of(each)) for each in assignments]
        await asyncio.to_thread(vault.security.append, *events)


async def started(vault: Vault, assignment: Assignment, sandbox: str) -> None:
    """It is allowed, and begins. ``sandbox``: what holds the plan, as the policy says it now."""
    event = Event(STARTED, assignment.run, _words(assignment), {**facts_of(assignment), "sandbox": sandbox})
    await asyncio.to_thread(vault.security.append, event)


async def ended(vault: Vault, assignment: Assignment, outcome: Outcome, began: float, code: str = "") -> None:
    """It came to an end, ``began`` being when it began, on the monotonic clock. ``code``: why it failed."""
    facts = {**facts_of(assignment), "outcome": outcome, "seconds": round(time.monotonic() - began, 3)}
    words = f"{_words(assignment)}: {code or outcome}"
    event = Event(ENDED, assignment.run, words, {**facts, **({"code": code} if code else {})})
    await asyncio.to_thread(vault.security.append, event)


async def refused(vault: Vault, assignment: Assignment, code: str, reason: str) -> None:
    """The owner does not want it."""
    facts = {**facts_of(assignment), "outcome": "refused", "code": code}
    await asyncio.to_thread(
        vault.security.append, Event(REFUSED, assignment.run, f"{_words(assignment)}: {reason}", facts)
    )


async def schema_told(vault: Vault, ask: SchemaAsk, columns: int) -> None:
    """The names of so many columns of a dataset, and of the classes in them, leave the node."""
    words = f"{ask.client}: the names of {columns} column{'s' if columns > 1 else ''}"
    event = Event(SCHEMA_TOLD, ask.run, words, {**_of_schema(ask), "columns": columns})
    await asyncio.to_thread(vault.security.append, event)


async def schema_refused(vault: Vault, ask: SchemaAsk, code: str, reason: str) -> None:
    """They stay here."""
    event = Event(SCHEMA_REFUSED, ask.run, f"{ask.client}: {reason}", {**_of_schema(ask), "code": code})
    await asyncio.to_thread(vault.security.append, event)


def facts_of(assignment: Assignment) -> dict[str, Fact]:
    """Which work of which run it is."""
    return {
        "run": assignment.run,
        "round": assignment.round,
        "phase": assignment.phase,
        "client": assignment.client,
        "plan": assignment.plan,
        "assignment": assignment.id,
    }


def _of_schema(ask: SchemaAsk) -> dict[str, Fact]:
    return {"run": ask.run, "client": ask.client, "plan": ask.plan}


def _words(assignment: Assignment) -> str:
    return f"round {assignment.round} {assignment.phase} of {assignment.client}"
