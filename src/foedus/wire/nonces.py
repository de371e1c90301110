"""The memory of used nonces, so that a signed request is accepted once (see :mod:`foedus.wire.signing`)."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Protocol


class Memory(Protocol):
    """Who remembers used nonces: :class:`Nonces`, or a database that replicas share."""

    def use(self, key_id: str, nonce: str, created: int, now: float) -> bool:
        """Remember a nonce; False where it was used before, or is too old to tell."""


class Nonces:
    """The nonces of the last ``keep`` seconds, per key, at most ``limit`` each: a second use is a replay.

    Over the limit the oldest is forgotten, and with it everything that this key signed in that second or before is
    refused: memory is bounded, replays stay out, and a key that floods locks out nobody else. One process' memory:
    replicas behind one address share :class:`foedus.store.nonces.SharedNonces` instead.
    """

    def __init__(self, keep: float = 120.0, limit: int = 10_000) -> None:
        self._keep = keep
        self._limit = limit
        self._seen: dict[str, OrderedDict[str, tuple[float, int]]] = {}
        self._floors: dict[str, int] = {}
        self._swept = float("-inf")
        self._lock = Lock()

    def use(self, key_id: str, nonce: str, created: int, now: float) -> bool:
        """Remember the nonce; False where it was used before, or signed (``created``) too long ago to know."""
        with self._lock:
            self._sweep(now)
            seen = self._seen.setdefault(key_id, OrderedDict())
            if nonce in seen or created <= self._floors.get(key_id, -1):
                return False
            if len(seen) >= self._limit:
                _, (_, oldest) = seen.popitem(last=False)
                self._floors[key_id] = max(oldest, self._floors.get(key_id, -1))
            seen[nonce] = (now + self._keep, created)
            return True

    def _sweep(self, now: float) -> None:
        if now < self._swept + self._keep / 4:
            return
        self._swept = now
        for key_id, seen in list(self._seen.items()):
            while seen and next(iter(seen.values()))[0] < now:
                seen.popitem(last=False)
            if not seen:
                del self._seen[key_id]
        self._floors = {key: floor for key, floor in self._floors.items() if floor + self._keep >= now}

    def __len__(self) -> int:
        """How many nonces are remembered."""
        return sum(map(len, self._seen.values()))
