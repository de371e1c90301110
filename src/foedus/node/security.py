"""A node's security log: what was asked, decided, changed and run, in lines of JSON, each chained to the one before.

The lines are in files below ``audit/`` in the node's home; a file is named by the number of its first line, and the
chain goes on over the files. A line holds the hash of the one before and its own, as in Schneier and Kelsey, "Secure
Audit Logs to Support Computer Forensics", ACM TISSEC 2(2), 1999, section 4. A line is on the disk before what it tells
goes on. Where the machine died in the middle of one, its beginning is cut off, which the next line says. Free of torch.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foedus.domain.errors import IntegrityError, StorageError
from foedus.node.files import append_durably
from foedus.store.crashpoints import reach
from foedus.wire.audit import GENESIS, AuditHead, canonical, digest

FOLDER, LOCK = "audit", "lock"

SEGMENT = 4 << 20
"""Bytes of a file after which the next one begins."""

KEPT = 256
"""Files that are kept; the oldest goes when there are more, and a line says so."""

TEXT_LIMIT = 2000
"""Characters of a text in a line; what is longer is cut."""

TAIL = 64 << 10
"""Bytes in which the last line of a file is looked for; a line is shorter."""

Fact = str | int | float


@dataclass(frozen=True)
class Event:
    """What happened to what, in words, and as ``facts`` for programs. ``at`` is in Unix seconds.

    ``row`` is its number in the vault, where it was recorded together with a change there.
    """

    event: str
    subject: str = ""
    detail: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    at: float = field(default_factory=time.time)
    row: int | None = None

    @property
    def moment(self) -> str:
        """``at`` as a line has it."""
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Entry:
    """One line of the log: an event, and its place in the chain. ``at`` is ISO 8601 in UTC."""

    seq: int
    at: str
    event: str
    subject: str
    detail: str
    facts: Mapping[str, Fact]
    row: int | None
    previous: str
    hash: str


@dataclass(frozen=True)
class Verified:
    """``entries`` that hold, from the number ``first`` on, and the last one.

    ``broken``: what is wrong first, as file, line and reason; none where nothing is. ``torn``: bytes of an unfinished
    last line, which the next entry removes.
    """

    entries: int
    first: int
    head: AuditHead
    broken: str = ""
    torn: int = 0


class SecurityLog:
    """The log in a node's home. Any process may append; they take turns."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def append(self, *events: Event) -> AuditHead:
        """Append events durably; returns the new head.

        Raises:
            StorageError: ``audit_unwritable``. IntegrityError: ``audit_broken`` where the last line is not one.
        """
        with self.writing() as write:
            return write(events)

    @contextmanager
    def writing(self) -> Iterator[Callable[[Sequence[Event]], AuditHead]]:
        """What appends, while this process alone may."""
        try:
            self._folder.mkdir(exist_ok=True, mode=0o700)
            lock = (self._folder / LOCK).open("w")
        except OSError as error:
            raise _unwritable(error) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._append

    def newest(self, limit: int, *events: str) -> tuple[Entry, ...]:
        """The newest entries, or those of some kinds of events, oldest first.

        Raises:
            IntegrityError: ``audit_broken`` where a line is none.
        """
        return tuple(reversed(list(islice(self.backwards(*events), limit))))

    def backwards(self, *events: str) -> Iterator[Entry]:
        """The entries, or those of some kinds of events, newest first.

        Raises:
            IntegrityError: ``audit_broken`` where a line is none.
        """
        marks = [json.dumps(event).encode() for event in events]
        for path in reversed(self._segments()):
            for line in reversed(_lines(path.read_bytes())):
                if not marks or any(mark in line for mark in marks):
                    entry = _parsed(line, path)
                    if not events or entry.event in events:
                        yield entry

    def head(self) -> AuditHead:
        """The newest entry's number and hash."""
        last = self.newest(1)
        return _head(last[0]) if last else AuditHead(seq=0, hash=GENESIS)

    def verify(self, witness: AuditHead | None = None) -> Verified:
        """Follow the chain from its first line to its last, and tell the first that does not hold.

        ``witness`` is a head that was seen before, which the log has to contain.
        """
        head, count, first, torn, trimmed = AuditHead(seq=0, hash=GENESIS), 0, 0, 0, 1
        for path in (segments := self._segments()):
            content = path.read_bytes()
            for number, line in enumerate(_lines(content), start=1):
                if not first:
                    first = int(path.stem)
                    head = head if first == 1 else _before(line)
                try:
                    entry = _parsed(line, path)
                except IntegrityError as error:
                    return Verified(count, first, head, f"{path.name}, line {number}: {error.why}", torn)
                if why := _wrong(entry, line, head, witness):
                    return Verified(count, first, head, f"{path.name}, line {number}: {why}", torn)
                head, count = _head(entry), count + 1
                trimmed = int(entry.facts["first"]) if entry.event == "log_trimmed" else trimmed
            torn = len(content) - content.rfind(b"\n") - 1
            if torn and path != segments[-1]:
                return Verified(count, first, head, f"{path.name}: its last line is not whole", torn)
        missing = "entries before the first one are missing" if first > trimmed else ""
        if witness is not None and witness.seq > head.seq:
            missing = f"the log ends before entry {witness.seq}, which was witnessed"
        return Verified(count, first, head, missing, torn)

    def _segments(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.jsonl") if path.stem.isdecimal())

    def _append(self, events: Sequence[Event]) -> AuditHead:
        try:
            last, torn, segments = self._mended()
            head = _head(last) if last else AuditHead(seq=0, hash=GENESIS)
            if torn:
                told = f"{torn} bytes of a line that was not finished were removed"
                events = [Event("log_repaired", FOLDER, told, {"bytes": torn}), *events]
            gone = list[Path]()
            if not segments or segments[-1].stat().st_size >= SEGMENT:
                segments.append(self._folder / f"{head.seq + 1:016d}.jsonl")
                gone = segments[:-KEPT]
            if gone:
                begin = int(segments[len(gone)].stem)
                events = [*events, Event("log_trimmed", FOLDER, f"it begins at entry {begin}", {"first": begin})]
            lines, head = _chained(events, head)
            reach("commit", "node_audit", "before")
            append_durably(segments[-1], lines)
            reach("commit", "node_audit", "after")
            for path in gone:
                path.unlink(missing_ok=True)
            return head
        except OSError as error:
            raise _unwritable(error) from error

    def _mended(self) -> tuple[Entry | None, int, list[Path]]:
        """The last whole line, the bytes of an unfinished one that were cut off behind it, and the files."""
        torn, segments = 0, self._segments()
        while segments:
            path = segments[-1]
            with path.open("r+b") as file:
                start = max(0, file.seek(0, os.SEEK_END) - TAIL)
                file.seek(start)
                content = file.read()
                whole = content.rfind(b"\n") + 1
                if whole < len(content):
                    torn += len(content) - whole
                    file.truncate(start + whole)
            if whole:
                return _parsed(_lines(content)[-1], path), torn, segments
            path.unlink()
            segments.pop()
        return None, torn, segments


_adapter = TypeAdapter(Entry)


def _chained(events: Sequence[Event], head: AuditHead) -> tuple[bytes, AuditHead]:
    lines = b""
    for event in events:
        line: dict[str, Any] = {
            "seq": head.seq + 1,
            "at": event.moment,
            "event": event.event,
            "subject": event.subject[:TEXT_LIMIT],
            "detail": event.detail[:TEXT_LIMIT],
            "facts": {k: v[:TEXT_LIMIT] if isinstance(v, str) else v for k, v in event.facts.items()},
            "row": event.row,
            "previous": head.hash,
        }
        head = AuditHead(seq=head.seq + 1, hash=digest(canonical(line)))
        lines += f"{canonical({**line, 'hash': head.hash})}\n".encode()
    return lines, head


def _lines(content: bytes) -> list[bytes]:
    """The whole lines; what follows the last line's end is left out."""
    return content.split(b"\n")[:-1]


def _parsed(line: bytes, path: Path) -> Entry:
    try:
        return _adapter.validate_json(line)
    except ValidationError as error:
        raise IntegrityError(
            "audit_broken",
            f"A line of the security log, in {path.name}, is none.",
            "it is no entry",
            "Find out who changed it. To go on, move the folder `audit` away and keep it: a new log begins.",
        ) from error


def _before(line: bytes) -> AuditHead:
    """What the first line of a log whose beginning is gone says it follows."""
    try:
        first = _adapter.validate_json(line)
        return AuditHead(seq=first.seq - 1, hash=first.previous)
    except ValidationError:
        return AuditHead(seq=0, hash=GENESIS)


def _wrong(entry: Entry, line: bytes, head: AuditHead, witness: AuditHead | None) -> str:
    """What is wrong with a line that should follow ``head``; empty where nothing is."""
    said = {**vars(entry)}
    found = said.pop("hash")
    if entry.seq != head.seq + 1:
        return f"entry {head.seq + 1} was expected, and entry {entry.seq!r:.20} came"
    if entry.previous != head.hash:
        return "it does not follow the line before it"
    if digest(canonical(said)) != found or canonical(vars(entry)).encode() != line:
        return "its text was changed"
    if witness is not None and witness.seq == entry.seq and witness.hash != found:
        return "it is not the entry that was witnessed"
    return ""


def _head(entry: Entry) -> AuditHead:
    return AuditHead(seq=entry.seq, hash=entry.hash)


def _unwritable(error: OSError) -> StorageError:
    return StorageError(
        "audit_unwritable",
        "The node's security log cannot be written, so nothing is done.",
        error.strerror or "",
        "Make room, or mend the permissions of the folder `audit` in the node's home.",
    )
