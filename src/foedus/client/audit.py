"""Read a coordinator's audit log, verify it here rather than believe it, and keep it as a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from foedus.client.http import Connection
from foedus.domain.errors import IntegrityError, NotFoundError
from foedus.wire.audit import AuditEntry, AuditHead, AuditPage, Verdict, verify

AT_ONCE = 500
LINE_LIMIT = 64 << 10


def read(connection: Connection, after: int = 0) -> Iterator[AuditEntry]:
    """Every entry after a number, in order, to the head that the log has when its end is reached."""
    while True:
        page = connection.get(f"/audit?after={after}&limit={AT_ONCE}", AuditPage)
        yield from page.entries
        if not page.entries or page.entries[-1].seq >= page.head.seq:
            return
        after = page.entries[-1].seq


def head(connection: Connection) -> AuditHead:
    """The newest entry's number and hash, as the coordinator tells it."""
    return connection.get("/audit?after=0&limit=1", AuditPage).head


def check(entries: Iterable[AuditEntry], expected: AuditHead | None, witnesses: Iterable[AuditHead] = ()) -> Verdict:
    """Follow the chain to its end, which has to be ``expected`` where that is known.

    Raises:
        IntegrityError: ``audit_broken``, with the first entry that does not hold.
    """
    verdict = verify(entries, witnesses=[*witnesses, *([expected] if expected else [])])
    if verdict.broken is None:
        return verdict
    raise IntegrityError(
        "audit_broken",
        f"The audit log does not hold at entry {verdict.broken}: {verdict.why}.",
        f"The {verdict.entries} entries before it hold.",
        "Entries were changed, removed or added behind its back: compare with backups and what nodes have witnessed.",
    )


def export(entries: Iterable[AuditEntry], target: Path) -> int:
    """Write entries to a file, a line of JSON each; returns how many."""
    count = 0
    with target.open("w", encoding="ascii") as file:
        for entry in entries:
            file.write(json.dumps(entry.model_dump(mode="json")) + "\n")
            count += 1
    return count


def load(source: Path) -> Iterator[AuditEntry]:
    """The entries of a file that :func:`export` wrote.

    Raises:
        NotFoundError: ``file_missing``. IntegrityError: ``audit_unreadable`` with the line.
    """
    if not source.is_file():
        raise NotFoundError("file_missing", f"There is no file {source}.", "", "Name an export of the audit log.")
    with source.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT), b""), start=1):
            try:
                yield AuditEntry.model_validate_json(line)
            except ValidationError as error:
                raise IntegrityError(
                    "audit_unreadable", f"Line {number} of {source} is no entry of an audit log.", "", "Export it anew."
                ) from error
