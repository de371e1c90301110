"""Prometheus metrics, counted from the database at each scrape: they are right after a restart, too."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from foedus.store.tables import assignments, blobs, nodes, phases, runs

CONNECTED_SECONDS = 90.0


class _Snapshot(Collector):
    """The figures of one transaction."""

    def __init__(self, tx: Connection) -> None:
        self._tx = tx

    def collect(self) -> Iterator[Metric]:
        """Each family in turn."""
        yield self._by(GaugeMetricFamily("foedus_runs", "Runs by status.", labels=["status"]), runs.c.status)
        yield self._by(CounterMetricFamily("foedus_phases", "Phases by outcome.", labels=["outcome"]), phases.c.status)
        contributions = CounterMetricFamily("foedus_assignments", "Assignments by status.", labels=["status"])
        yield self._by(contributions, assignments.c.status)
        alive = select(func.count()).where(
            nodes.c.status == "active", nodes.c.last_seen > time.time() - CONNECTED_SECONDS
        )
        yield GaugeMetricFamily(
            "foedus_nodes_connected", "Nodes heard of lately.", self._tx.execute(alive).scalar_one()
        )
        stored = self._tx.execute(select(func.count(), func.coalesce(func.sum(blobs.c.size), 0))).one()
        yield GaugeMetricFamily("foedus_blobs", "Blobs kept.", stored[0])
        yield GaugeMetricFamily("foedus_blob_bytes", "Bytes of blobs kept.", stored[1])

    def _by(self, family: GaugeMetricFamily | CounterMetricFamily, column: object) -> Metric:
        for label, count in self._tx.execute(select(column, func.count()).group_by(column)):  # type: ignore[call-overload]
            family.add_metric([label], count)
        return family


def render(tx: Connection) -> bytes:
    """The metrics in the text format."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(tx))
    return generate_latest(registry)
