"""A node's durable records: who it is, its datasets, and what its owner decided of plans.

One SQLite file (WAL) in the node's home, beside it the private key, the bundles of plans that were offered and the
security log (:mod:`foedus.node.security`). A line of the log that tells of a change is committed with it, and goes from
there into the log's file, once. The owner's commands and the agent open it side by side. Free of torch.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from foedus.data.owned import Reading
from foedus.domain.errors import ConflictError, NotFoundError
from foedus.node import tables
from foedus.node.files import move_durably
from foedus.node.formats import bring_forward
from foedus.node.offering import TOLD_LIMIT, offer
from foedus.node.security import Entry, Event, Fact, SecurityLog
from foedus.store.unit_of_work import Store
from foedus.wire.messages import DatasetView, PlanApproval
from foedus.wire.public_keys import generate_key

FILE, KEY, PLANS = "vault.db", "key", "plans"
AT_ONCE = 32
"""Lines that go into the security log's file at once."""


@dataclass(frozen=True)
class Identity:
    """Who the node is: its owner's name for it, and once it has joined, its id and its coordinator's URL."""

    name: str
    node: str | None
    coordinator: str | None


@dataclass(frozen=True)
class Dataset:
    """One client: a file or folder of the owner's, and how it is read. ``loading`` names its loading plan, if any.

    ``added_at`` is in Unix seconds. ``minimum``: the fewest examples to train on. ``summary``: each column as it was
    when it was added (:mod:`foedus.data.statistics`), which stays here.
    """

    client: str
    path: Path
    tags: tuple[str, ...]
    examples: int
    columns: tuple[str, ...]
    added_at: float
    loading: str | None = None
    kind: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    minimum: int = 1
    summary: tuple[dict[str, Any], ...] = ()

    @property
    def reading(self) -> Reading:
        """How it is read."""
        return Reading(kind=self.kind, options=self.options, minimum=self.minimum)


@dataclass(frozen=True)
class PlanEntry:
    """A plan that a run wanted, and what the owner decided: ``pending``, ``approved`` or ``rejected``."""

    digest: str
    name: str
    author: str
    state: str
    note: str
    seen_at: float
    decided_at: float | None

    @property
    def status(self) -> str:
        """The state, or ``registered``: the owner brought it, no run has asked for it, and nothing is decided."""
        return "registered" if self.state == "pending" and not self.author else self.state


def create_home(home: Path, name: str) -> None:
    """Make a node's home: folder, private key, vault. One that was left half made, without a name, is finished.

    Raises:
        ConflictError: ``node_exists``.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = home / KEY
    if not key.is_file():
        part = key.with_name(f"{KEY}.part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(generate_key().hex())
        move_durably(part, key, "key")
    with Vault(home) as vault, vault.transaction("node_init") as db:
        if db.execute(select(tables.identity.c.id)).first() is not None:
            raise ConflictError(
                "node_exists", f"There is a node in {home} already.", "", "Choose another home with FOEDUS_NODE_HOME."
            )
        db.execute(insert(tables.identity).values(id=1, name=name))
        vault.log(db, "initialised", name)


class Vault:
    """The node's records, open.

    Raises:
        NotFoundError: ``node_missing`` where no node was made in ``home``.
    """

    def __init__(self, home: Path) -> None:
        if not (home / KEY).is_file():
            fix = "Make one with `foedus node init`, or name its home."
            raise NotFoundError("node_missing", f"There is no node in {home}.", "", fix)
        self.home = home
        (home / PLANS).mkdir(exist_ok=True, mode=0o700)
        self._store = Store(f"sqlite:///{home / FILE}", tables.metadata)
        self.reading = self._store.reading
        self.security = SecurityLog(home)
        try:
            bring_forward(self._store, home)
            self._write_log()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    @contextmanager
    def transaction(self, name: str) -> Iterator[Connection]:
        """A change of the records; what it logged is in the log's file when the block has ended."""
        with self._store.transaction(name) as db:
            yield db
        self._write_log()

    @contextmanager
    def changes(self) -> Iterator[Callable[[], int]]:
        """A number, asked for by a call, that changes when the vault was written to, by whatever process."""
        with closing(sqlite3.connect(self.home / FILE)) as connection:
            yield lambda: int(connection.execute("PRAGMA data_version").fetchone()[0])

    @property
    def private_key(self) -> bytes:
        """The node's Ed25519 key; it never leaves this machine."""
        return bytes.fromhex((self.home / KEY).read_text().strip())

    def bundle_path(self, digest: str) -> Path:
        """Where the bundle of the plan ``digest`` is kept; the digest was checked to be one."""
        return self.home / PLANS / f"{digest}.json"

    def log(self, db: Connection, event_name: str, subject: str = "", detail: str = "", **facts: Fact) -> None:
        """Have a line in the security log if, and only if, the caller's transaction is committed."""
        row = {"at": time.time(), "event": event_name, "subject": subject, "detail": detail, "facts": facts}
        db.execute(insert(tables.audit).values(row))

    def identity(self) -> Identity:
        """Who the node is."""
        with self.reading() as db:
            row = db.execute(select(tables.identity)).one()
        return Identity(row.name, row.node, row.coordinator)

    def datasets(self) -> tuple[Dataset, ...]:
        """The owner's datasets, by name."""
        with self.reading() as db:
            return tuple(map(_dataset, db.execute(select(tables.datasets).order_by("client"))))

    def plans(self) -> tuple[PlanEntry, ...]:
        """Every plan seen, the newest first."""
        with self.reading() as db:
            rows = db.execute(select(tables.plans).order_by(tables.plans.c.seen_at.desc(), "digest"))
            return tuple(PlanEntry(**row._mapping) for row in rows)

    def plan_state(self, digest: str) -> str | None:
        """What the owner decided of a plan; None where it was never seen."""
        with self.reading() as db:
            return db.execute(select(tables.plans.c.state).where(tables.plans.c.digest == digest)).scalar()

    def undecided(self) -> int:
        """How many plans were offered of which the owner has decided nothing."""
        with self.reading() as db:
            waiting = select(func.count()).select_from(tables.plans).where(tables.plans.c.decided_at.is_(None))
            return db.execute(waiting).scalar_one()

    def audit(self, limit: int = 1000) -> tuple[Entry, ...]:
        """The newest lines of the security log, oldest first."""
        return self.security.newest(limit)

    def told(self) -> tuple[tuple[DatasetView, ...], tuple[PlanApproval, ...]]:
        """What the coordinator may know: datasets without their paths, and the owner's decisions, approvals first."""
        views = [DatasetView(client=each.client, tags=each.tags, examples=each.examples) for each in self.datasets()]
        ended = self._ended(time.time())
        plans = sorted(self.plans(), key=lambda plan: plan.state != "approved")
        asked = [plan for plan in plans if plan.status != "registered"][:TOLD_LIMIT]
        decided = [PlanApproval.model_validate(_told(plan, plan.digest in ended)) for plan in asked]
        return tuple(views), tuple(sorted(decided, key=lambda plan: plan.digest))

    def joined(self, node: str, coordinator: str) -> None:
        """Remember the id that the coordinator gave."""
        with self.transaction("node_join") as db:
            db.execute(update(tables.identity).values(node=node, coordinator=coordinator))
            self.log(db, "joined", coordinator, node)

    def add_dataset(self, dataset: Dataset) -> None:
        """Record a dataset.

        Raises:
            ConflictError: ``dataset_exists``, ``too_many_datasets``, ``tags_overlap``.
        """
        with self.transaction("node_dataset") as db:
            offer(db, {**vars(dataset), "path": str(dataset.path)})
            self.log(db, "dataset_added", dataset.client, f"{dataset.kind} tagged {', '.join(dataset.tags)}")

    def remove_dataset(self, client: str) -> None:
        """Forget a dataset; its file stays.

        Raises:
            NotFoundError: ``dataset_unknown``.
        """
        with self.transaction("node_dataset") as db:
            if db.execute(delete(tables.datasets).where(tables.datasets.c.client == client)).rowcount == 0:
                raise NotFoundError("dataset_unknown", f"There is no dataset {client!r:.80} on this node.")
            self.log(db, "dataset_removed", client)

    def record_plan(self, plan: PlanEntry) -> None:
        """Record an offered plan, unless it is known."""
        with self.transaction("node_plan") as db:
            if db.execute(insert(tables.plans).values(vars(plan)).on_conflict_do_nothing()).rowcount:
                self.log(db, "plan_seen", plan.digest, f"{plan.name} by {plan.author}: {plan.state}")

    def asked_for(self, digest: str, name: str, author: str) -> None:
        """A run asks for a plan; if the owner had registered it, it now waits for a decision."""
        unasked = (tables.plans.c.digest == digest, tables.plans.c.author == "")
        with self.reading() as db:
            if db.execute(select(tables.plans.c.digest).where(*unasked)).first() is None:
                return
        with self.transaction("node_plan") as db:
            db.execute(update(tables.plans).where(*unasked).values(name=name, author=author))

    def record(self, event_name: str, subject: str, detail: str, **facts: Fact) -> None:
        """Append one line to the security log: of what changes no record here."""
        self.security.append(Event(event_name, subject, detail, facts))

    def _ended(self, now: float) -> set[str]:
        """Plans whose approval was for a time that is over."""
        with self.reading() as db:
            return set(db.execute(select(tables.grants.c.digest).where(tables.grants.c.until <= now)).scalars())

    def _write_log(self) -> None:
        """Bring lines that were committed into the log's file, each once, whoever is killed in between."""
        while self._unwritten():
            with self.security.writing() as write:
                events = self._unwritten()
                there = self._written(events)
                if new := [event for event in events if (event.row, event.moment) not in there]:
                    write(new)
                with self._store.transaction("node_logged") as db:
                    db.execute(delete(tables.audit).where(tables.audit.c.id.in_([event.row for event in events])))

    def _written(self, events: Sequence[Event]) -> set[tuple[int | None, str]]:
        """The rows and moments of the lines of these kinds, back to before the first of them: rows come in order."""
        lines = self.security.backwards(*{event.event for event in events})
        first = min((event.row or 0 for event in events), default=0)
        return {(line.row, line.at) for line in takewhile(lambda line: line.row is None or line.row >= first, lines)}

    def _unwritten(self) -> list[Event]:
        with self.reading() as db:
            rows = db.execute(select(tables.audit).order_by("id").limit(AT_ONCE)).all()
        return [Event(row.event, row.subject, row.detail, row.facts or {}, row.at, row.id) for row in rows]


def _dataset(row: Row[Any]) -> Dataset:
    lists = {name: tuple(row._mapping[name]) for name in ("tags", "columns", "summary")}
    return Dataset(**{**row._mapping, **lists, "path": Path(row.path)})


def _told(plan: PlanEntry, ended: bool) -> dict[str, str]:
    if ended and plan.state == "approved":
        return {"digest": plan.digest, "state": "rejected", "note": "the approval has expired"}
    return {"digest": plan.digest, "state": plan.state, "note": plan.note}
