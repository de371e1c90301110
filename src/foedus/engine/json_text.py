"""JSON as files and the command line write it: what is not finite becomes null, so that any reader can parse it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from foedus.domain.errors import IntegrityError

DOCUMENT_LIMIT = 1 << 20
"""Bytes of a summary or an environment."""


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in ASCII, on one line or indented.

    >>> to_json({"loss": float("nan"), "rounds": (1, 2)})
    '{"loss":null,"rounds":[1,2]}'
    """
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        return json.dumps(value, indent=indent, separators=separators, allow_nan=False, default=_fields)
    except (ValueError, TypeError):  # something in it is not finite, or a mapping that is no dict
        return json.dumps(_finite(value), indent=indent, separators=separators, allow_nan=False)


def _fields(value: object) -> dict[str, Any]:
    """A record's fields, of which nothing is copied: ``dataclasses.asdict`` takes twenty times as long."""
    if is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        return _finite(_fields(value))
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(inner) for inner in value]
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run's folder.

    Raises:
        IntegrityError: ``document_malformed``.
    """
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(DOCUMENT_LIMIT))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError("document_malformed", f"{path} is not what foedus wrote.", "", "Restore it.") from error
    return found if isinstance(found, dict) else {}
