"""The periodic collection of garbage, in a thread of its own; each replica takes part, and none waits for another."""

from __future__ import annotations

import logging
import random
import threading

from foedus.coordinator.context import Context
from foedus.coordinator.retention import collect
from foedus.domain.errors import FoedusError

JOIN = 30.0
log = logging.getLogger("foedus.coordinator")


class Sweeper:
    """Collects every ``gc_every`` seconds, or a little later: replicas that started together do not sweep together."""

    def __init__(self, parts: Context) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sweep, name="garbage", daemon=True)

    def start(self) -> None:
        """Begin, unless the settings leave it to the command."""
        if self._parts.settings.gc_every:
            self._thread.start()

    def stop(self) -> None:
        """End after the collection that is going on."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(JOIN)

    def _sweep(self) -> None:
        settings = self._parts.settings
        while not self._stop.wait(settings.gc_every * random.uniform(1.0, 1.1)):
            try:
                found = collect(self._parts.store, self._parts.artifacts, settings.gc_grace)
            except FoedusError as error:
                log.warning("garbage stays until the next time: %s", error)
            except Exception:
                log.exception("garbage stays until the next time")
            else:
                if found.blobs or found.uploads or found.parts:
                    log.info("removed %d blobs of %d bytes that nothing needed", found.blobs, found.bytes)
