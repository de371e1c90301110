"""Prometheus metrics, counted from the database at each scrape: they are right after a restart, too."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, Connection, Table, func, select

from foedus.store.tables import assignments, blobs, nodes, phases, rounds, runs

CONNECTED_SECONDS = 90.0


class _Snapshot(Collector):
    """The figures of one transaction."""

    def __init__(self, tx: Connection) -> None:
        self._tx = tx

    def collect(self) -> Iterator[Metric]:
        """Each family in turn."""
        yield self._by(GaugeMetricFamily("foedus_runs", "Runs by status.", labels=["status"]), runs.c.status)
        yield self._by(GaugeMetricFamily("foedus_phases", "Phases by status.", labels=["status"]), phases.c.status)
        asked = GaugeMetricFamily("foedus_assignments", "Assignments by status.", labels=["status"])
        yield self._by(asked, assignments.c.status)
        yield CounterMetricFamily("foedus_rounds", "Rounds committed.", self._count(rounds, rounds.c.round > 0))
        answered = CounterMetricFamily("foedus_contributions", "Answers by outcome.", labels=["outcome"])
        for outcome, status in (("counted", "done"), ("failed", "failed")):
            answered.add_metric([outcome], self._count(assignments, assignments.c.status == status))
        yield answered
        alive = (nodes.c.status == "active") & (nodes.c.last_seen > time.time() - CONNECTED_SECONDS)
        yield GaugeMetricFamily("foedus_nodes_connected", "Nodes heard of lately.", self._count(nodes, alive))
        stored = self._tx.execute(select(func.count(), func.coalesce(func.sum(blobs.c.size), 0))).one()
        yield GaugeMetricFamily("foedus_blobs", "Blobs kept.", stored[0])
        yield GaugeMetricFamily("foedus_blob_bytes", "Bytes of blobs kept.", stored[1])

    def _count(self, table: Table, condition: ColumnElement[bool]) -> int:
        return self._tx.execute(select(func.count()).select_from(table).where(condition)).scalar_one()

    def _by(self, family: GaugeMetricFamily, column: object) -> Metric:
        for label, count in self._tx.execute(select(column, func.count()).group_by(column)):  # type: ignore[call-overload]
            family.add_metric([label], count)
        return family


def render(tx: Connection) -> bytes:
    """The metrics in the text format."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(tx))
    return generate_latest(registry)
