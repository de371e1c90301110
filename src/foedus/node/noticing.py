"""Whether a dataset is what it was: looked at before each ask of a run, by the agent. Free of torch.

The first ask of a run fixes the bytes that the run works on. What the owner edited since the statistics were taken is
noticed then: they are taken anew, and the security log has a line, before the plan sees a row. Later asks of the run
work on the same bytes or are refused, since which rows are trained and tested on is decided by their number.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert

from foedus.domain.errors import ClientWorkError
from foedus.node.apart import read_apart
from foedus.node.looks import digest_of, look
from foedus.node.snapshots import copy, copy_of, forget_dataset, needs_copy, place_of
from foedus.node.tables import begun, looks
from foedus.node.vault import Dataset, Vault

DAY = 86_400.0


@dataclass(frozen=True)
class Seen:
    """What a dataset's bytes were: as the file system tells, and their digest."""

    look: str
    digest: str


@dataclass(frozen=True)
class Changed:
    """A dataset whose statistics have to be taken anew, from ``place`` as ``kind``.

    ``before``: the digest of its bytes when they were taken last, empty where nothing is known of it.
    """

    client: str
    place: str
    kind: str
    seen: Seen
    before: str

    def to_json(self) -> str:
        """As one word of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, word: str) -> Changed:
        """What :meth:`to_json` made."""
        said = json.loads(word)
        return cls(**{**said, "seen": Seen(**said["seen"])})


def see(place: Path) -> Seen:
    """A file or folder as it is now. An edit in between makes the next look differ.

    Raises:
        DataError: ``dataset_unreadable``.
    """
    return Seen(look(place), digest_of(place, lambda: None))


def keep(db: Connection, client: str, seen: Seen) -> None:
    """Have the statistics of a dataset be those of these bytes."""
    row = vars(seen)
    db.execute(insert(looks).values(client=client, **row).on_conflict_do_update(["client"], set_=row))


def forget_client(vault: Vault, client: str) -> None:
    """Forget what the bytes of a dataset were, and what is kept of them."""
    forget_dataset(vault.home, client)
    with vault.transaction("node_dataset") as db:
        db.execute(delete(looks).where(looks.c.client == client))


def forget_runs(vault: Vault, before: float) -> None:
    """Forget the bytes of runs that asked last more than so many seconds ago."""
    old = begun.c.at < time.time() - before
    with vault.reading() as db:
        if db.execute(select(begun.c.run).where(old).limit(1)).first() is None:
            return
    with vault.transaction("node_begun") as db:
        db.execute(delete(begun).where(old))


async def as_begun(vault: Vault, run: str, dataset: Dataset, moved: Callable[[], None]) -> Dataset:
    """The dataset as the run has it: with the place of its bytes, and statistics of today if the run begins.

    Raises:
        ClientWorkError: ``dataset_changed`` where the run began with other bytes.
        DataError: ``dataset_unreadable``, or why what is there now is no dataset. OSError: where there is no room.
    """
    return await asyncio.to_thread(_as_begun, vault, run, dataset, moved)


def _as_begun(vault: Vault, run: str, dataset: Dataset, moved: Callable[[], None]) -> Dataset:
    with vault.reading() as db:
        here = (begun.c.run == run, begun.c.client == dataset.client)
        began = db.execute(select(begun.c.digest, begun.c.at).where(*here)).one_or_none()
        kept = db.execute(select(looks.c.look, looks.c.digest).where(looks.c.client == dataset.client)).one_or_none()
    if began is not None and copy_of(vault.home, dataset, began.digest).exists():
        _begin(vault, run, dataset, began.digest, began.at)
        return replace(dataset, path=copy(vault.home, dataset, began.digest, moved))
    place, reading = place_of(vault.home, run, dataset, moved)
    seen = look(place)
    digest = kept.digest if kept is not None and kept.look == seen else digest_of(place, moved)
    if began is not None and began.digest != digest:
        raise _changed(dataset.client)
    shown = copy(vault.home, dataset, digest, moved) if needs_copy(vault.home, place) else dataset.path
    if kept is None or digest != kept.digest:
        if began is None:
            before = "" if kept is None else kept.digest
            changed = Changed(dataset.client, str(place), reading.kind, Seen(seen, digest), before)
            read_apart("foedus.node.restating", vault.home, changed.to_json(), moved)
    elif seen != kept.look:
        with vault.transaction("node_begun") as db:
            keep(db, dataset.client, Seen(seen, digest))
    _begin(vault, run, dataset, digest, 0.0 if began is None else began.at)
    now = next((each for each in vault.datasets() if each.client == dataset.client), dataset)
    return replace(now, path=shown)


def _begin(vault: Vault, run: str, dataset: Dataset, digest: str, at: float) -> None:
    """Record that the run works on these bytes, and once a day that it still does."""
    now = time.time()
    if at > now - DAY:
        return
    row = {"run": run, "client": dataset.client, "digest": digest, "at": now}
    with vault.transaction("node_begun") as db:
        db.execute(insert(begun).values(row).on_conflict_do_update(["run", "client"], set_={"at": now}))


def _changed(client: str) -> ClientWorkError:
    return ClientWorkError(
        "dataset_changed",
        f"The dataset of {client} is not the one that this run began with.",
        "Its examples would be divided anew, and tested on what was trained on.",
        "Offer the dataset of before, or begin another run.",
    )
