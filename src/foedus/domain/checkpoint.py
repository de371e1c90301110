"""The table ``[checkpoint]`` of run.toml: when a simulation keeps what it can go on from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from foedus.domain.table import Table


class CheckpointTable(Table):
    """``every`` so many rounds (0: never at all), of which the newest ``keep`` stay.

    Where ``every`` is not given, once a minute. Unless it is 0, also when a run is interrupted, and at its end.
    """

    every: Annotated[int, Field(ge=0, le=2**53)] | None = None
    keep: Annotated[int, Field(ge=1, le=1000)] = 2
