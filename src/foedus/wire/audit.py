"""The audit log's entries, and how a chain of them is verified; shared by the coordinator, people and nodes.

An entry is hashed with the hash of the one before (Schneier and Kelsey, "Secure Audit Logs to Support Computer
Forensics", ACM TISSEC 2(2), 1999, section 4): ``hash = SHA-256(canonical({at, body, previous, seq}))``, where ``body``
is the SHA-256 of the entry's body. So the chain can be verified by who may not read every body: those that are
withheld keep their digest, and a random ``salt`` in each body keeps it from being guessed.

``GET /audit?after=N&limit=N`` (people) and ``POST /node/audit`` (ReadAudit, nodes: every body withheld) reply an
AuditPage; the reply to a node's poll has the head. Paths are under ``/api/v1``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from foedus.domain.errors import ConfigError
from foedus.wire.messages import Digest, Message

GENESIS = "0" * 64
"""What stands as ``previous`` in the first entry, and as the head of a log without entries."""

Seq = Annotated[int, Field(ge=0, le=2**53, strict=True)]


class AuditHead(Message):
    """The newest entry's number and hash; 0 and :data:`GENESIS` where there is none."""

    seq: Seq
    hash: Digest


class AuditEntry(Message):
    """One act. ``at`` is in milliseconds since the epoch; ``text`` is the body as it was hashed, or withheld.

    The body is a JSON object: ``actor``, ``org`` (an organisation's id), ``action``, ``object``, ``outcome``,
    ``detail`` and ``salt``.
    """

    seq: Seq
    at: Seq
    previous: Digest
    body: Digest
    hash: Digest
    text: Annotated[str, Field(max_length=16_384)] | None = None


class ReadAudit(Message):
    """Ask, as a node, for entries after a number."""

    after: Seq = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 500


class AuditPage(Message):
    """Entries in order, and the head at that time."""

    entries: Annotated[tuple[AuditEntry, ...], Field(max_length=1000)]
    head: AuditHead


def show_head(head: AuditHead) -> str:
    """A head as people and polls write it: ``SEQ:HASH``."""
    return f"{head.seq}:{head.hash}"


def parse_head(text: str) -> AuditHead:
    """A head from what :func:`show_head` wrote.

    Raises:
        ConfigError: ``witness_malformed``.

    >>> parse_head("7:" + "0" * 64).seq
    7
    """
    seq, _, found = text.partition(":")
    try:
        return AuditHead(seq=int(seq), hash=found)
    except (ValidationError, ValueError) as error:
        what, why = f"{text[:80]!a} is no head.", "A witnessed head is a number, a colon and a SHA-256."
        raise ConfigError("witness_malformed", what, why, "`foedus node witness` shows it.") from error


@dataclass(frozen=True)
class Verdict:
    """What verifying a chain came to: how many entries hold, the last one, and which is broken first (none: none)."""

    entries: int
    head: AuditHead
    broken: int | None = None
    why: str = ""


def canonical(value: Mapping[str, Any]) -> str:
    r"""JSON with sorted keys, without spaces and in ASCII, so that the same object is always the same text.

    >>> canonical({"b": 1, "a": "é"})
    '{"a":"\\u00e9","b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(text: str) -> str:
    """The SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def link(seq: int, at: int, previous: str, body: str) -> str:
    """The hash of an entry."""
    return digest(canonical({"seq": seq, "at": at, "previous": previous, "body": body}))


def verify(
    entries: Iterable[AuditEntry], start: AuditHead | None = None, witnesses: Iterable[AuditHead] = ()
) -> Verdict:
    """Follow a chain from ``start`` (none: from its beginning) and name the first entry that does not hold.

    ``witnesses`` are heads that were seen before; the chain has to contain each that is not before ``start``.
    """
    head = start or AuditHead(seq=0, hash=GENESIS)
    seen = {one.seq: one.hash for one in witnesses if one.seq >= head.seq}
    count = 0
    for entry in entries:
        why = _wrong(entry, head) or _unwitnessed(entry.seq, entry.hash, seen)
        if why:
            return Verdict(count, head, min(entry.seq, head.seq + 1), why)
        head, count = AuditHead(seq=entry.seq, hash=entry.hash), count + 1
    missing = [seq for seq in seen if seq > head.seq]
    if missing:
        return Verdict(count, head, head.seq + 1, f"the chain ends before entry {min(missing)}, which was witnessed")
    return Verdict(count, head)


def _wrong(entry: AuditEntry, head: AuditHead) -> str:
    if entry.seq != head.seq + 1:
        return f"entry {head.seq + 1} was expected, and entry {entry.seq} came"
    if entry.previous != head.hash:
        return "it does not follow the entry before it"
    if entry.text is not None and digest(entry.text) != entry.body:
        return "its text was changed"
    if link(entry.seq, entry.at, entry.previous, entry.body) != entry.hash:
        return "its hash is not its own"
    return ""


def _unwitnessed(seq: int, found: str, seen: Mapping[int, str]) -> str:
    return "it is not the entry that was witnessed" if seen.get(seq, found) != found else ""
