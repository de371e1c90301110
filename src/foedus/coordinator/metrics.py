"""Prometheus metrics that replicas share, counted from the database at each scrape; those of the process come along.

What the database says is the same from every replica: take the maximum over them. What a process counts (see
:mod:`.measures`) is its own: take the sum.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Select, func, select

import foedus
from foedus.coordinator.measures import PROCESS
from foedus.domain.errors import FoedusError
from foedus.domain.lifecycle import ACTIVE, RoundStage, RunStatus
from foedus.store.leaders import leaders
from foedus.store.lifecycle import deliveries, round_attempts
from foedus.store.tables import assignments, blobs, nodes, runs, uploads
from foedus.store.unit_of_work import Store

CONNECTED_SECONDS = 90.0
LEADERS = 200
"""Runs whose leaders are told at most, the newest."""

ENDS = (RoundStage.COMMITTED, RoundStage.ABANDONED)


class _Snapshot(Collector):
    """The figures of one transaction, and of the folder."""

    def __init__(self, tx: Connection, folder: Path) -> None:
        self._tx = tx
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Each family in turn."""
        info = GaugeMetricFamily("foedus_info", "What runs here.", labels=["version"])
        info.add_metric([foedus.__version__], 1)
        yield info
        yield from self._runs()
        yield from self._work()
        yield from self._storage()

    def _runs(self) -> Iterator[Metric]:
        found = self._counts(select(runs.c.status, func.count()).group_by(runs.c.status))
        yield _gauge("foedus_runs", "Runs by status.", "status", {status.value: 0 for status in RunStatus} | found)
        stages = self._counts(select(round_attempts.c.stage, func.count()).group_by(round_attempts.c.stage))
        ended = CounterMetricFamily("foedus_rounds", "Rounds that ended, by outcome.", labels=["outcome"])
        for stage in ENDS:
            ended.add_metric([stage.value], stages.get(stage.value, 0))
        yield ended
        going = {stage.value: stages.get(stage.value, 0) for stage in RoundStage if stage not in ENDS}
        yield _gauge("foedus_rounds_going", "Rounds that go on, by stage.", "stage", going)
        led = select(leaders.c.run_id, leaders.c.replica).join(runs, runs.c.id == leaders.c.run_id)
        led = led.where(runs.c.status.in_(sorted(ACTIVE))).order_by(runs.c.created_at.desc()).limit(LEADERS)
        family = GaugeMetricFamily("foedus_run_leader", "Which replica leads a run.", labels=["run", "replica"])
        for row in self._tx.execute(led):
            family.add_metric([row.run_id, row.replica], 1)
        yield family

    def _work(self) -> Iterator[Metric]:
        active = select(runs.c.id).where(runs.c.status.in_(sorted(ACTIVE)))
        here = (assignments.c.run_id.in_(active), assignments.c.status.in_(("open", "leased")))
        found = self._counts(select(assignments.c.status, func.count()).where(*here).group_by(assignments.c.status))
        queue = {"open": 0, "leased": 0} | found
        yield _gauge("foedus_assignments", "Assignments that wait or are worked on, by status.", "status", queue)
        lately = (nodes.c.last_seen > time.time() - CONNECTED_SECONDS).label("lately")
        states = {"connected": 0, "away": 0, "revoked": 0}
        for row in self._tx.execute(select(nodes.c.status, lately, func.count()).group_by(nodes.c.status, "lately")):
            states["revoked" if row[0] != "active" else "connected" if row[1] else "away"] += row[2]
        yield _gauge("foedus_nodes", "Nodes that ever joined, by what became of them.", "state", states)
        told = self._counts(select(deliveries.c.status, func.count()).group_by(deliveries.c.status))
        waiting = {status: told.get(status, 0) for status in ("pending", "dead")}
        yield _gauge("foedus_webhook_deliveries", "Events that webhooks were not told, by status.", "status", waiting)

    def _storage(self) -> Iterator[Metric]:
        kept = self._tx.execute(select(func.count(), func.coalesce(func.sum(blobs.c.size), 0))).one()
        yield GaugeMetricFamily("foedus_blobs", "Blobs kept.", kept[0])
        yield GaugeMetricFamily("foedus_blob_bytes", "Bytes of blobs kept.", int(kept[1]))
        open_ = select(func.count()).where(uploads.c.completed == 0)
        yield GaugeMetricFamily(
            "foedus_uploads", "Uploads that are not complete.", self._tx.execute(open_).scalar_one()
        )
        free = shutil.disk_usage(self._folder).free
        yield GaugeMetricFamily("foedus_disk_free_bytes", "Free on the disk of the coordinator's folder.", free)

    def _counts(self, query: Select[Any]) -> dict[str, int]:
        return {row[0]: row[1] for row in self._tx.execute(query)}


def render(store: Store, folder: Path) -> bytes:
    """All metrics in the text format; those of the process alone where the database is away."""
    registry = CollectorRegistry()
    up = Gauge("foedus_database_up", "Whether the database answered this scrape.", registry=registry)
    try:
        with store.reading() as tx:
            shared = CollectorRegistry()
            shared.register(_Snapshot(tx, folder))
            known = generate_latest(shared)
        up.set(1)
    except FoedusError:
        known = b""
    return known + generate_latest(registry) + generate_latest(PROCESS)


def _gauge(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
