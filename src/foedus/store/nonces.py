"""The memory of used nonces that replicas of the coordinator share (see :mod:`foedus.wire.nonces` for one process)."""

from __future__ import annotations

import time
from threading import Lock

from sqlalchemy import Column, Float, String, Table, bindparam, delete
from sqlalchemy.dialects.postgresql import insert

from foedus.store.tables import metadata
from foedus.store.unit_of_work import Store

KEEP = 120.0
"""Seconds for which a nonce is kept: twice what a request's time may differ from ours."""

SWEEP = 30.0

used_nonces = Table(
    "used_nonces",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("nonce", String, primary_key=True),
    Column("expires_at", Float, nullable=False, index=True),
)

_USED = insert(used_nonces).on_conflict_do_nothing().returning(used_nonces.c.nonce)
_EXPIRED = delete(used_nonces).where(used_nonces.c.expires_at < bindparam("now"))


class SharedNonces:
    """Nonces as rows: of two replicas that see one nonce, the database lets one insert it. Safe in threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._swept = float("-inf")
        self._lock = Lock()

    def use(self, key_id: str, nonce: str, created: int, now: float) -> bool:
        """Remember the nonce; False where it was used before, whichever replica it was used at."""
        with self._store.statements() as each:
            if self._due():
                each.execute(_EXPIRED, {"now": now})
            return each.execute(_USED, {"key_id": key_id, "nonce": nonce, "expires_at": now + KEEP}).first() is not None

    def _due(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now < self._swept + SWEEP:
                return False
            self._swept = now
            return True
