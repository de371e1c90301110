"""The row of a run: what most use cases begin with. Free of torch."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select

from foedus.domain.errors import NotFoundError
from foedus.domain.run import RunSpec, parse_spec
from foedus.store.tables import runs

RunRow = Row[Any]

RUN = select(*(column for column in runs.c if column is not runs.c.manifest))
"""Runs without their manifests, which are long and are read once, to build the strategy."""


_STANDING: Select[Any] = select(runs.c.status, runs.c.epoch).where(runs.c.id == bindparam("run"))


def standing(connection: Connection, run: str) -> RunRow:
    """The status and the epoch of a run that is there; its driver looks at them all the time."""
    return connection.execute(_STANDING, {"run": run}).one()


def find_run(connection: Connection, run: str) -> RunRow:
    """The run's row, but for its manifest.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    row = connection.execute(RUN.where(runs.c.id == run)).one_or_none()
    if row is None:
        raise run_unknown(run)
    return row


def run_unknown(run: str) -> NotFoundError:
    """The refusal of a run that is not there, or not the caller's."""
    return NotFoundError("run_unknown", f"There is no run {run}.", "", "`foedus run list` shows every run.")


def spec_of(run: RunRow) -> RunSpec:
    """The run.toml that the run was submitted with."""
    return parse_spec(run.spec)
