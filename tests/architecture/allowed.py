"""The exceptions to the rules, each with its reason. An entry that is no longer needed fails the tests."""

from __future__ import annotations

ALLOWED: dict[str, dict[str, str]] = {
    "file_lines": {
        "foedus.wire.messages": "the whole of protocol version 1 and its table of endpoints, read as one page",
    },
    "imports_in_functions": {
        "foedus.engine.ray_extra.ray_executor": "Ray is an extra, and reads the environment when it is imported",
        "foedus.store.artifacts.open_artifacts": "boto3 is an extra, and long to import",
    },
}
