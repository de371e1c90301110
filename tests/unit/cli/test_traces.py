"""Traces: off by default; where the environment asks, spans become OpenTelemetry's."""

from __future__ import annotations

import pytest

from foedus.cli.observed import wanted
from foedus.domain.errors import ConfigError
from foedus.domain.spans import span, watched_by

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from foedus.cli.traces import exporter, tracing


def test_spans_nest_and_carry_what_they_are_about() -> None:
    memory = InMemorySpanExporter()
    with tracing("foedus-coordinator", memory) as watcher, watched_by(watcher):
        with span("request", request="abc", status=0) as fields, span("store", transaction="lease", run="run_1"):
            fields["route"], fields["status"] = "POST /api/v1/node/poll", 200
        with pytest.raises(ConfigError), span("round", run="run_1", round=3, phase="train"):
            raise ConfigError("settings_refused", "No.")
    store, request, round_ = memory.get_finished_spans()
    assert (store.name, request.name, round_.name) == ("store lease", "request POST /api/v1/node/poll", "round train")
    assert store.parent is not None and store.parent.span_id == request.context.span_id
    assert request.attributes is not None and request.attributes["foedus.status"] == 200
    assert round_.attributes is not None and round_.attributes["foedus.round"] == 3
    assert not round_.status.is_ok and [event.name for event in round_.events] == ["exception"]
    assert request.resource.attributes["service.name"] == "foedus-coordinator"


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "hospital-a")
    memory = InMemorySpanExporter()
    with tracing("foedus-node", memory) as watcher, watched_by(watcher), span("store", transaction="x"):
        pass
    assert memory.get_finished_spans()[0].resource.attributes["service.name"] == "hospital-a"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_off_unless_they_are_asked_for(environment: dict[str, str], expected: bool) -> None:
    assert wanted(environment) is expected


def test_an_exporter_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError) as refusal:
        exporter({"OTEL_TRACES_EXPORTER": "zipkin"})
    assert refusal.value.code == "settings_refused"
