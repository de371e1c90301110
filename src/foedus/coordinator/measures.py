"""What this process counts and times since it began, for Prometheus; :mod:`.metrics` adds what the database knows.

Labels are bounded by the source: routes, names of transactions, and error codes that have a page.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from foedus.domain.errors import FoedusError, RoundClosedError
from foedus.domain.explained import pages
from foedus.domain.spans import Fields

PROCESS = CollectorRegistry()
"""The metrics of this process; its memory, open files and processor time among them."""

ProcessCollector(registry=PROCESS)

REQUESTS = Counter("foedus_requests", "Requests answered.", ["route", "status"], registry=PROCESS)
REQUEST_SECONDS = Histogram(
    "foedus_request_seconds",
    "Time to answer, without those requests that wait by design.",
    ["route"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30),
    registry=PROCESS,
)
OPEN_REQUESTS = Gauge(
    "foedus_open_requests", "Requests that are being answered; long polls among them.", registry=PROCESS
)
CONNECTIONS = Gauge("foedus_connections", "Connections that are open.", registry=PROCESS)
TURNED_AWAY = Counter(
    "foedus_connections_closed", "Connections closed to keep room for others, by reason.", ["reason"], registry=PROCESS
)
BYTES = Counter(
    "foedus_http_bytes", "Bytes of bodies, by direction, as this process saw them.", ["direction"], registry=PROCESS
)
REFUSALS = Counter("foedus_refusals", "Requests refused, by the code of the error.", ["code"], registry=PROCESS)
CONTRIBUTIONS = Counter(
    "foedus_contributions", "Contributions that arrived, by what became of them.", ["outcome"], registry=PROCESS
)
STATES = Counter(
    "foedus_states_damaged", "Damaged parts of runs' states, by what became of them.", ["outcome"], registry=PROCESS
)
ASSIGNMENT_SECONDS = Histogram(
    "foedus_assignment_seconds",
    "From asking a client to telling its node.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    registry=PROCESS,
)
STORE_SECONDS = Histogram(
    "foedus_store_seconds",
    "Time of a transaction of the database, by name; `read` only reads.",
    ["transaction"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30),
    registry=PROCESS,
)
BLOB_SECONDS = Histogram(
    "foedus_blob_seconds",
    "Time of an operation of the blobs' storage.",
    ["operation"],
    buckets=(0.001, 0.01, 0.1, 1, 10, 100),
    registry=PROCESS,
)

OUTCOMES = ("counted", "failed", "late", "duplicate", "refused")
for _outcome in OUTCOMES:
    CONTRIBUTIONS.labels(_outcome)
for _outcome in ("mended", "lost"):
    STATES.labels(_outcome)
for _direction in ("in", "out"):
    BYTES.labels(_direction)

WAITING = frozenset(
    {
        "POST /api/v1/node/poll",
        "POST /api/v1/node/runs/{run}/history",
        "GET /api/v1/runs/{run}/events",
        "GET /api/v1/runs/{run}/history",
    }
)
"""Requests whose time is the time until there is something to tell."""


def refused(error: FoedusError) -> None:
    """Count a refusal."""
    REFUSALS.labels(error.code if error.code in pages() else "other").inc()


def contribution_refused(error: FoedusError) -> None:
    """Count a contribution that did not count: too late, told before otherwise, or not what was asked for."""
    late, duplicate = isinstance(error, RoundClosedError), error.code == "already_answered"
    CONTRIBUTIONS.labels("late" if late else "duplicate" if duplicate else "refused").inc()


@contextmanager
def watch(name: str, fields: Fields) -> Iterator[None]:
    """Time a span: the watcher that makes metrics of requests, transactions and operations on blobs."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - began
        if name == "store":
            STORE_SECONDS.labels(fields["transaction"]).observe(seconds)
        elif name == "blob":
            BLOB_SECONDS.labels(fields["operation"]).observe(seconds)
        elif name == "request":
            REQUESTS.labels(fields["route"], fields["status"]).inc()
            if fields["route"] not in WAITING:
                REQUEST_SECONDS.labels(fields["route"]).observe(seconds)
