"""A node's settings: where its home is, and the few numbers an owner may change. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import BaseModel, ConfigDict, Field

from foedus.domain.table import validate

HOME = "FOEDUS_NODE_HOME"
PREFIX = "FOEDUS_NODE_"

Seconds = Annotated[float, Field(gt=0, le=604800, allow_inf_nan=False)]


class NodeSettings(BaseModel):
    """What an owner may set; durations in seconds, sizes in bytes.

    ``poll_wait``: the longest poll. ``idle_limit``: how long work may take no step. ``keep_idle``: how long an idle
    work process is kept. ``cache_bytes``: room for downloaded models. ``blob_bytes``: the largest of them. ``workers``:
    work processes kept at once, each for another run. ``state_days``: how long client states of a run are kept that
    asks no more. ``witness_every``: how long the node waits before it follows the coordinator's audit log again.
    ``saved``: the folder for models that checkpointers keep, which has to be there (by default one in the home).
    ``drain_seconds``: how long SIGTERM lets the work in hand go on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    poll_wait: Annotated[float, Field(ge=0, le=60)] = 25.0
    idle_limit: Seconds = 600.0
    keep_idle: Seconds = 600.0
    cache_bytes: Annotated[int, Field(ge=1 << 20)] = 4 << 30
    blob_bytes: Annotated[int, Field(ge=1 << 10)] = 32 << 30
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    state_days: Annotated[float, Field(gt=0)] = 90.0
    saved: str = ""
    witness_every: Annotated[float, Field(ge=0)] = 600.0
    drain_seconds: Annotated[float, Field(ge=0, le=604800, allow_inf_nan=False)] = 5.0


def node_home(given: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """The node's home, absolute: the one given, or ``FOEDUS_NODE_HOME``, or ``node`` in the user's data folder."""
    chosen = given or (Path(named) if (named := environment.get(HOME)) else None)
    return (chosen or platformdirs.user_data_path("foedus") / "node").expanduser().absolute()


def read_settings(environment: Mapping[str, str] = os.environ) -> NodeSettings:
    """The settings, each from ``FOEDUS_NODE_`` and its name where the environment has it.

    Raises:
        ConfigError: ``config_refused``.

    >>> read_settings({"FOEDUS_NODE_POLL_WAIT": "5"}).poll_wait
    5.0
    """
    named = {name: environment.get(PREFIX + name.upper()) for name in NodeSettings.model_fields}
    return validate(NodeSettings, {name: text for name, text in named.items() if text is not None}, "FOEDUS_NODE_…")
