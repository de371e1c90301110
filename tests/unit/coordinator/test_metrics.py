"""The metrics answer what an operator asks, with bounded labels; the dashboard asks only for what is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from foedus.coordinator import measures
from foedus.coordinator.app import create_app
from foedus.coordinator.measures import OUTCOMES, contribution_refused, refused
from foedus.domain.errors import ConflictError, ContributionError, RoundClosedError, StorageError
from foedus.domain.explained import pages
from foedus.domain.lifecycle import RunStatus
from tests.unit.coordinator.door import BOOT, Door, opened

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "foedus.json").read_text())
DIGEST = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with opened(tmp_path) as door:
        yield door


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every sample's name that a coordinator exports, with its labels."""
    with opened(tmp_path_factory.mktemp("coordinator")) as door:
        text = _text(door)
    found: dict[str, set[str]] = {"foedus_run_leader": {"run", "replica"}}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    for one in vars(measures).values():
        if isinstance(one, MetricWrapperBase):
            for suffix in {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(one._type, ("",)):
                labels = {*one._labelnames, *(["le"] if suffix == "_bucket" else [])}
                found.setdefault(one._name + suffix, set()).update(labels)
    return found


def _text(door: Door) -> str:
    reply = door.client.get(f"{door.url}/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return reply.text


def _samples(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def _greet(door: Door, name: str) -> None:
    body = json.dumps({"boot": BOOT, "version": "0"}).encode()
    assert door.signed(door.enrol(name), "POST", "/node/hello", body).status_code == 200


def test_what_replicas_share_is_counted_from_the_database(door: Door) -> None:
    _greet(door, "clinic-a")
    door.enrol("clinic-b")
    door.ask("PUT", f"/blobs/{DIGEST}", content=b"hello")
    found = _samples(_text(door))
    assert {state: _value(found, "foedus_nodes", state=state) for state in ("connected", "away", "revoked")} == {
        "connected": 1,
        "away": 1,
        "revoked": 0,
    }
    assert _value(found, "foedus_blobs") == 1 and _value(found, "foedus_blob_bytes") == 5
    assert _value(found, "foedus_disk_free_bytes") > 0
    assert _value(found, "foedus_database_up") == 1
    for status in RunStatus:
        assert _value(found, "foedus_runs", status=status) == 0
    for outcome in ("committed", "abandoned"):
        assert _value(found, "foedus_rounds_total", outcome=outcome) == 0
    for status in ("pending", "dead"):
        assert _value(found, "foedus_webhook_deliveries", status=status) == 0
    for status in ("open", "leased"):
        assert _value(found, "foedus_assignments", status=status) == 0


def test_what_a_process_sees_is_counted_by_it(door: Door) -> None:
    before = _samples(_text(door))
    door.ask("PUT", f"/blobs/{DIGEST}", content=b"hello")
    door.ask("GET", "/runs/run_0000", token="fdp_" + "0" * 48)
    door.client.get(f"{door.url}/nowhere/{'x' * 300}")
    after = _samples(_text(door))

    def grown(name: str, **labels: str) -> float:
        return _value(after, name, **labels) - before.get((name, frozenset(labels.items())), 0)

    assert grown("foedus_http_bytes_total", direction="in") == 5
    assert grown("foedus_http_bytes_total", direction="out") > 100
    assert grown("foedus_requests_total", route="GET /api/v1/runs/{run}", status="401") == 1
    assert grown("foedus_requests_total", route="unknown", status="404") == 1
    assert grown("foedus_refusals_total", code="token_refused") == 1
    assert grown("foedus_refusals_total", code="http_404") == 1
    assert grown("foedus_store_seconds_count", transaction="read") >= 2
    assert grown("foedus_request_seconds_count", route="GET /api/v1/runs/{run}") == 1
    assert _value(after, "foedus_open_requests") == 1
    assert _value(after, "process_resident_memory_bytes") > 0


def _routes(door: Door) -> set[str]:
    samples = [line for line in _text(door).splitlines() if not line.startswith("#")]
    return {found for line in samples for found in re.findall(r'route="([^"]*)"', line)}


def test_a_label_is_never_what_a_stranger_says(door: Door) -> None:
    of_others = _routes(door)  # the counters are the process's, in which other coordinators have served
    for at in range(30):
        door.client.request("GET", f"{door.url}/api/v1/runs/run_{at}", headers={"X-Request-Id": f"request-{at}"})
        door.client.get(f"{door.url}/{at}")
        door.client.request(f"M{at}", f"{door.url}/healthz")
    routes = _routes(door)
    assert not [route for route in routes if re.search(r"run_\d|/\d|M\d", route)]
    served = {"unknown", "/metrics", *create_app(door.parts).openapi()["paths"]}
    assert {route.rpartition(" ")[2] for route in routes - of_others} <= served
    assert {route.partition(" ")[0] for route in routes} <= {"unknown", *HTTP_METHODS}


def test_a_code_without_a_page_is_not_a_label() -> None:
    was = measures.REFUSALS.labels("other")._value.get()
    refused(ConflictError("made_up_by_somebody", "No."))
    assert measures.REFUSALS.labels("other")._value.get() == was + 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RoundClosedError("round_closed", "Late."), "late"),
        (ConflictError("already_answered", "Twice."), "duplicate"),
        (ContributionError("tensor_shape", "Wrong."), "refused"),
    ],
)
def test_contributions_that_do_not_count_are_counted_by_outcome(error: Any, outcome: str) -> None:
    was = {name: measures.CONTRIBUTIONS.labels(name)._value.get() for name in OUTCOMES}
    contribution_refused(error)
    now = {name: measures.CONTRIBUTIONS.labels(name)._value.get() for name in OUTCOMES}
    assert {name for name in OUTCOMES if now[name] != was[name]} == {outcome}


def test_where_the_database_is_away_the_process_is_still_seen(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise StorageError("database_failed", "It is away.")

    monkeypatch.setattr(door.parts.store, "reading", away)
    found = _samples(_text(door))
    assert _value(found, "foedus_database_up") == 0
    assert _value(found, "process_resident_memory_bytes") > 0


def _expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def _alerts() -> list[str]:
    return re.findall(r"^ +expr: (.*)$", (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(), re.MULTILINE)


NAME = re.compile(r"\b(?:(?:foedus|process)_\w+|up)\b")
WORDS = {"by", "sum", "max", "min", "rate", "increase", "topk", "histogram_quantile", "le", "e"}
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds to what it scrapes."""


@pytest.mark.parametrize("expression", [*_expressions(), *_alerts()])
def test_dashboard_and_alerts_ask_for_what_is_exported(expression: str, exported: dict[str, set[str]]) -> None:
    names = NAME.findall(expression)
    assert names and set(names) <= {*exported, "up"}
    known = set().union(*(exported.get(name, set()) for name in names)) | SCRAPED
    grouped = {word.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for word in group.split(",")}
    asked = dict(re.findall(r"(\w+)=\"([^\"]*)\"", expression))
    assert grouped | set(asked) <= known
    assert asked.get("code", "internal") in pages()
    rest = re.sub(r"by \([^)]*\)|\{[^}]*\}|\[\d+[mh]\]|[\d.]+", "", NAME.sub("", expression))
    assert set(re.findall(r"[a-z_]+", rest)) <= WORDS
    assert expression.count("(") == expression.count(")")


def test_the_alerts_are_rules_that_prometheus_takes() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["expr"] for rule in rules] == _alerts()
    assert all(rule["annotations"]["summary"] and re.fullmatch(r"Foedus\w+", rule["alert"]) for rule in rules)


def test_the_dashboard_shows_every_metric_of_ours_and_its_panels_do_not_overlap(exported: dict[str, set[str]]) -> None:
    told, endings = " ".join(_expressions()), re.compile(r"_(?:bucket|count|sum|total|created)$")
    assert {endings.sub("", name) for name in exported if name.startswith("foedus_")} <= {
        endings.sub("", name) for name in NAME.findall(told)
    }
    places = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
