"""What the processes that stay have in common: logs, and traces where the environment asks for them (``OTEL_*``)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from foedus.cli.logs import start_logging
from foedus.domain.errors import ConfigError
from foedus.domain.spans import watched_by


@contextmanager
def observed(service: str) -> Iterator[None]:
    """Log, and trace, as options and environment say, until the process's work is done.

    Raises:
        ConfigError: ``extra_missing``, ``settings_refused``.
    """
    start_logging()
    if not wanted(os.environ):
        yield
        return
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        raise ConfigError(
            "extra_missing",
            "OpenTelemetry is not installed.",
            "The environment asks for traces (OTEL_…); they are in the extra `otel`.",
            "pip install 'foedus[otel]', or unset OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_ENDPOINT.",
        )
    traces = importlib.import_module("foedus.cli.traces")
    with traces.tracing(service, traces.exporter(os.environ)) as watcher, watched_by(watcher):
        yield


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for traces.

    >>> wanted({}), wanted({"OTEL_TRACES_EXPORTER": "console"}), wanted({"OTEL_TRACES_EXPORTER": "none"})
    (False, True, False)
    """
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    named = environment.get("OTEL_TRACES_EXPORTER", "")
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return not off and named != "none" and bool(named or any(environment.get(name) for name in endpoints))
