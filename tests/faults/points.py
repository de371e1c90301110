"""Every place where the coordinator and a node can be killed on demand while a run is submitted and goes to its end."""

from __future__ import annotations

COORDINATOR: tuple[str, ...] = ()
NODE: tuple[str, ...] = ()
