"""foedus: one federated training plan, unchanged, in a fast simulation and in a live federation.

``import foedus`` loads nothing but this file; each name below is imported from its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foedus.api.inputs import plan as plan
    from foedus.api.process import IterativeProcess as IterativeProcess
    from foedus.api.process import iterative_process as iterative_process
    from foedus.api.result import Result as Result
    from foedus.api.simulation import simulate as simulate
    from foedus.data.population import Federation as Federation
    from foedus.data.population import Generated as Generated
    from foedus.data.population import federation as federation
    from foedus.domain.errors import FoedusError as FoedusError
    from foedus.engine.snapshot import Snapshot as Snapshot

__version__ = "0.1.0"

PUBLIC = {
    "simulate": "foedus.api.simulation",
    "Result": "foedus.api.result",
    "iterative_process": "foedus.api.process",
    "IterativeProcess": "foedus.api.process",
    "Snapshot": "foedus.engine.snapshot",
    "plan": "foedus.api.inputs",
    "federation": "foedus.data.population",
    "Federation": "foedus.data.population",
    "Generated": "foedus.data.population",
    "FoedusError": "foedus.domain.errors",
}
"""Public name → the module that has it."""

__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    """A public name, from its module."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'foedus' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)
