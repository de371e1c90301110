"""A run's records: the last ones in memory, and all of them read back from rounds.jsonl, one at a time."""

from __future__ import annotations

import json
import math
from collections import deque
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

RECENT = 20_000
"""Receipts that :class:`Recent` keeps: some ten megabytes."""

_adapter = TypeAdapter(RoundRecord)


class Recent:
    """The last records of a run: as many as have ``limit`` receipts among them, and never fewer than one."""

    def __init__(self, limit: int = RECENT) -> None:
        self.records = deque[RoundRecord]()
        self._limit, self._receipts = limit, 0

    def add(self, record: RoundRecord) -> None:
        """Take in a record, and let go of the oldest where there are too many receipts."""
        self.records.append(record)
        self._receipts += _receipts(record)
        while self._receipts > self._limit and len(self.records) > 1:
            self._receipts -= _receipts(self.records.popleft())


def _receipts(record: RoundRecord) -> int:
    return 1 + sum(len(phase.receipts) for phase in record.phases)


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
