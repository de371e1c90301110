"""OpenTelemetry traces of spans (extra ``otel``): requests, transactions, rounds, storage. Off unless ``OTEL_*`` asks.

The SDK reads https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from foedus import __version__
from foedus.domain.errors import ConfigError
from foedus.domain.spans import Fields, Watcher


def exporter(environment: Mapping[str, str]) -> SpanExporter:
    """Where traces go: ``OTEL_TRACES_EXPORTER`` is ``otlp`` (default; over HTTP) or ``console``.

    Raises:
        ConfigError: ``settings_refused``.
    """
    name = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "console":
        return ConsoleSpanExporter()
    if name == "otlp":
        return OTLPSpanExporter()
    raise ConfigError(
        "settings_refused", f"OTEL_TRACES_EXPORTER={name[:40]!a} is not known here.", "", "Use otlp, console or none."
    )


@contextmanager
def tracing(service: str, exporter: SpanExporter) -> Iterator[Watcher]:
    """A watcher that makes traces of spans; what it has not sent yet goes out at the end."""
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("foedus", __version__)

    @contextmanager
    def watch(name: str, fields: Fields) -> Iterator[None]:
        with tracer.start_as_current_span(name) as found:
            try:
                yield
            finally:
                found.update_name(_title(name, fields))
                found.set_attributes({f"foedus.{key}": value for key, value in fields.items()})

    try:
        yield watch
    finally:
        provider.shutdown()


def _title(name: str, fields: Fields) -> str:
    """What a span is called: of few kinds, as tracing backends want it."""
    kind = fields.get("route") or fields.get("transaction") or fields.get("operation") or fields.get("phase") or ""
    return f"{name} {kind}".rstrip()
