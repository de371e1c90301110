"""Refused requests in the audit log, bounded: of each kind one entry a minute, with how many there were."""

from __future__ import annotations

import threading
import time
from collections import deque

from foedus.coordinator.identities import NodeIdentity, Person
from foedus.domain.errors import AccessError, FoedusError
from foedus.domain.plain import Json
from foedus.store.audit import Act, record
from foedus.store.unit_of_work import Store

EVERY = 60.0
"""Seconds between two entries of one kind; what is refused in between is counted in the next."""

CONFLICTS = frozenset({"already_answered", "idempotency_conflict", "lease_lost", "hello_needed"})
"""Conflicts that tell of two who act as one, or of one who says two things. Refused authentications are told, too."""

KINDS, AT_ONCE = 200, 60
"""Kinds that are counted at a time, and entries that are written within :data:`EVERY`, at most."""


class Refusals:
    """How often each kind was refused since its last entry; what is not written yet is lost with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._written: dict[str, float] = {}
        self._times: deque[float] = deque()

    def due(self, kind: str) -> int:
        """Count one; returns how many are to be written now, or 0."""
        now = time.monotonic()
        with self._lock:
            if kind not in self._counts and len(self._counts) >= KINDS:
                return 0
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if now - self._written.get(kind, -EVERY) < EVERY:
                return 0
            while self._times and now - self._times[0] >= EVERY:
                self._times.popleft()
            if len(self._times) >= AT_ONCE:
                return 0
            self._times.append(now)
            self._written = {known: at for known, at in self._written.items() if now - at < EVERY} | {kind: now}
            return self._counts.pop(kind)


def note(store: Store, refusals: Refusals, error: FoedusError, who: Person | NodeIdentity | None, route: str) -> None:
    """Write an entry for a refusal that is due, with the error's notes, which its caller is not told."""
    if not isinstance(error, AccessError) and error.code not in CONFLICTS:
        return
    actor, org = (who.actor, who.org) if who is not None else ("anyone", "")
    notes: list[str] = getattr(error, "__notes__", [])
    count = refusals.due(f"{error.code} {actor if who is not None else ''}")
    if count:
        with store.transaction("refused") as tx:
            detail: dict[str, Json] = {"count": count, **({"why": "; ".join(notes)} if notes else {})}
            record(tx, Act(actor, "request.refuse", route, org, error.code, detail))
