"""rounds.jsonl, read back: a run's records as they were written, one round at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from foedus.domain.errors import IntegrityError
from foedus.domain.round import RoundRecord

LINE_LIMIT = 256 << 20
"""Bytes of one round's line: a million receipts."""

NUMBERS = ("metrics", "weights", "central")
"""Tables of numbers, in which ``null`` stands for what is not finite."""

_adapter = TypeAdapter(RoundRecord)


def read_records(path: Path, size: int | None = None) -> Iterator[RoundRecord]:
    """The records in a rounds.jsonl, or in its first ``size`` bytes; a last line without an end is left out.

    Raises:
        IntegrityError: ``rounds_malformed``.
        OSError: where it cannot be read.
    """
    left = math.inf if size is None else size
    with path.open("rb") as file:
        while left > 0 and (line := file.readline(LINE_LIMIT)).endswith(b"\n"):
            left -= len(line)
            try:
                yield _adapter.validate_python(json.loads(line, object_hook=_numbers))
            except (ValueError, RecursionError) as error:
                raise IntegrityError(
                    "rounds_malformed", f"{path} has a line that is no round's record.", "", "Restore the file."
                ) from error


def _numbers(table: dict[str, Any]) -> dict[str, Any]:
    for key in NUMBERS:
        inside = table.get(key)
        if isinstance(inside, dict) and None in inside.values():
            table[key] = {name: math.nan if value is None else value for name, value in inside.items()}
    return table
