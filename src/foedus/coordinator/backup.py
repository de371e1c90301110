"""Backup and restore of a coordinator, whatever its database and storage: one snapshot of its tables, and the blobs.

A backup is a folder: ``tables/NAME.jsonl`` (a header of columns, then a row a line), ``blobs/aa/…`` as in a
coordinator's own folder, and ``backup.json``, which is written last: without it, the folder is no backup. The tables
are read in one transaction, while the coordinator goes on; blobs never change, so that those which the snapshot names
can be copied afterwards. What was restored from one kind of database and storage may be another kind's.

Uploads under way are not taken along: who sent them begins anew.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, Table, delete, func, insert, select, text, update

import foedus
from foedus.coordinator.orders import ONGOING
from foedus.coordinator.retention import needed
from foedus.domain.errors import ConflictError, IntegrityError, NotFoundError
from foedus.store import audit, blobs, leaders, lifecycle, nonces, people, trust
from foedus.store.artifacts import Artifacts, hash_file
from foedus.store.engines import is_postgres
from foedus.store.migrations import forward
from foedus.store.shelves import storage_errors
from foedus.store.tables import assignments, metadata, nodes, phases, runs, schema, uploads
from foedus.store.unit_of_work import Store

MANIFEST = "backup.json"
FORMAT = 1
BATCH = 500
MODULES = (audit, blobs, leaders, lifecycle, nonces, people, trust)
"""Whose tables are backed up beside those of ``store/tables.py``: importing them declares the tables."""

LEFT_OUT = frozenset({schema.name, uploads.name, blobs.upload_parts.name, leaders.leaders.name})
OF_BLOBS = frozenset({"blobs", blobs.blob_owners.name})

PROOFS = (runs, nodes, people.users, audit.audit)
"""Tables of which every coordinator that was ever started has a row in one."""

Step = Callable[[int, int], None]
"""Told after each blob: how many are done, of how many."""


@dataclass(frozen=True)
class Backup:
    """What a backup holds. ``taken_at`` is in Unix seconds; ``tables`` has rows and SHA-256 of each."""

    format: int
    release: str
    revision: str
    taken_at: float
    tables: dict[str, tuple[int, str]]
    blobs: int
    bytes: int


def backup(store: Store, artifacts: Artifacts, folder: Path, step: Step = lambda done, of: None) -> Backup:
    """Write a backup into a new folder, while the coordinator goes on.

    Raises:
        ConflictError: ``backup_exists``. StorageError: ``blob_spoiled``, ``disk_full``.
        NotFoundError: ``blob_unknown`` where a blob was removed since the snapshot; take another backup.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConflictError("backup_exists", f"{folder} is not empty.", "", "Name a new folder.")
    with storage_errors():
        (folder / "tables").mkdir(parents=True, exist_ok=True, mode=0o700)
        with store.reading() as tx:
            digests = needed(tx)
            tables = {table.name: _write_table(tx, table, folder, digests) for table in _tables()}
            revision = forward.current(tx) or ""
        size = 0
        for number, digest in enumerate(sorted(digests), 1):
            size += _copy_out(artifacts, digest, folder)
            step(number, len(digests))
        found = Backup(FORMAT, foedus.__version__, revision, time.time(), tables, len(digests), size)
        (folder / MANIFEST).write_text(json.dumps(asdict(found), indent=2) + "\n")
    return found


def restore(store: Store, artifacts: Artifacts, folder: Path, step: Step = lambda done, of: None) -> Backup:
    """Bring a backup into an empty database and storage: blobs first, then all rows in one transaction.

    Runs go on where they stood then: drivers and leases of before are void, and open phases have a fresh deadline.

    Raises:
        NotFoundError: ``backup_missing``. ConflictError: ``restore_not_empty``, ``backup_revision``.
        IntegrityError: ``backup_damaged``.
    """
    found = read_backup(folder)
    _check_empty(store, found)
    total = found.blobs
    for number, (digest, path) in enumerate(_blobs_of(folder), 1):
        with artifacts.writing() as writer, path.open("rb") as file:
            while piece := file.read(1 << 20):
                writer.write(piece)
        if writer.digest != digest:
            raise _damaged(f"the blob {digest[:12]}…")
        step(number, total)
    with store.transaction("restore") as tx:
        missing = _insert_all(tx, folder, found) - {digest for digest, _ in _blobs_of(folder)}
        if missing:
            raise _damaged(f"{len(missing)} blobs are missing")
        _take_up(tx)
    return found


def read_backup(folder: Path) -> Backup:
    """What a backup says of itself.

    Raises:
        NotFoundError: ``backup_missing``.
    """
    try:
        known = json.loads((folder / MANIFEST).read_text())
        if known["format"] != FORMAT:
            raise ValueError
        return Backup(**{**known, "tables": {name: tuple(kept) for name, kept in known["tables"].items()}})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotFoundError(
            "backup_missing", f"{folder} holds no backup.", f"It has no {MANIFEST} that can be read.", "Name another."
        ) from error


def _insert_all(tx: Connection, folder: Path, found: Backup) -> set[str]:
    """Insert every row; the digests that the restored state needs."""
    for table in _tables():
        if table.name in found.tables:
            _read_table(tx, table, folder, found.tables[table.name])
    return needed(tx)


def _tables() -> list[Table]:
    return [table for table in metadata.sorted_tables if table.name not in LEFT_OUT]


def _write_table(tx: Connection, table: Table, folder: Path, digests: set[str]) -> tuple[int, str]:
    """Write a table's rows, of blobs only those that are needed; their number, and the SHA-256 of the file."""
    path, count = folder / "tables" / f"{table.name}.jsonl", 0
    order = [*table.primary_key.columns] or [*table.columns][:4]
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps([column.name for column in table.columns]) + "\n")
        for row in tx.execute(select(table).order_by(*order).execution_options(yield_per=BATCH)):
            if table.name in OF_BLOBS and (row.digest not in digests):
                continue
            file.write(json.dumps(list(row)) + "\n")
            count += 1
    path.chmod(0o600)
    return count, hash_file(path)


def _read_table(tx: Connection, table: Table, folder: Path, kept: tuple[int, str]) -> None:
    path = folder / "tables" / f"{table.name}.jsonl"
    if not path.is_file() or hash_file(path) != kept[1]:
        raise _damaged(f"the table {table.name}")
    tx.execute(delete(table))
    with path.open(encoding="utf-8") as file:
        columns = json.loads(file.readline())
        for rows in _batched(dict(zip(columns, json.loads(line), strict=True)) for line in file):
            tx.execute(insert(table), rows)
    _go_on_counting(tx, table)


def _go_on_counting(tx: Connection, table: Table) -> None:
    """PostgreSQL numbers new rows by sequences, which know nothing of rows that came with their numbers."""
    column = table.autoincrement_column
    if column is not None and is_postgres(tx) and isinstance(column.type, Integer | BigInteger):
        last = tx.execute(select(func.max(column))).scalar()
        which = {"table": table.name, "column": column.name}
        sequence = tx.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), which).scalar()
        if last is not None and sequence is not None:
            tx.execute(text("SELECT setval(:s, :last)"), {"s": sequence, "last": last})


def _take_up(tx: Connection) -> None:
    """Nothing that was begun before the backup, or after it, by a driver or a node, counts for the restored state."""
    tx.execute(update(runs).values(epoch=runs.c.epoch + 1))
    leased = assignments.c.status == "leased"
    tx.execute(update(assignments).where(leased).values(status="open", lease_until=None))
    tx.execute(update(phases).where(phases.c.status.in_(ONGOING)).values(opened_at=time.time()))
    audit.record(tx, audit.Act("system", "restore"))


def _check_empty(store: Store, found: Backup) -> None:
    with store.reading() as tx:
        revision = forward.current(tx) or ""
        full = [table.name for table in PROOFS if tx.execute(select(table).limit(1)).first() is not None]
    if revision != found.revision:
        raise ConflictError(
            "backup_revision",
            f"The backup's schema is {found.revision}, this release's is {revision}.",
            f"It was taken by foedus {found.release}.",
            "Restore it with that release, then `foedus coordinator migrate`.",
        )
    if full:
        raise ConflictError(
            "restore_not_empty",
            "The database is not empty.",
            "A backup is restored as a whole, never into what is there.",
            "Name a new folder or database, on which no coordinator was started yet.",
        )


def _copy_out(artifacts: Artifacts, digest: str, folder: Path) -> int:
    target = folder / "blobs" / digest[:2] / digest[2:]
    target.parent.mkdir(parents=True, exist_ok=True)
    with artifacts.keeping():
        shutil.copyfile(artifacts.path(digest), target)
    return target.stat().st_size


def _blobs_of(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted((folder / "blobs").glob("??/*")):
        yield path.parent.name + path.name, path


def _batched(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    held = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield held
            held = []
    if held:
        yield held


def _damaged(what: str) -> IntegrityError:
    return IntegrityError("backup_damaged", f"The backup is damaged: {what}.", "", "Use another one.")
