"""Loading plans that a node's owner keeps: by name, in the vault, and which dataset is read by which. Free of torch.

A plan under a name does not change: what a round's record names is what was read. The work process gets it with its
order, and reads the owner's file by it (:mod:`foedus.data.loading`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from foedus.data.loading_plan import LoadingPlan, digest, read_loading_plan
from foedus.domain.errors import ConflictError, NotFoundError
from foedus.domain.names import check_name
from foedus.domain.table import nearest, validate
from foedus.node.tables import datasets, loadings
from foedus.node.vault import Dataset, Vault

ENDING = ".toml"
LIMIT = 1000
"""Loading plans that a node keeps at most."""


@dataclass(frozen=True)
class KeptPlan:
    """A loading plan of the owner's. ``content``: all that it says. ``datasets``: those read by it. Unix seconds."""

    name: str
    digest: str
    content: dict[str, Any]
    added_at: float
    datasets: tuple[str, ...] = ()

    @property
    def plan(self) -> LoadingPlan:
        """The plan itself.

        Raises:
            ConfigError: ``config_refused``, where another version of foedus wrote what this one does not know.
        """
        return validate(LoadingPlan, self.content, f"The loading plan {self.name}")

    @property
    def reference(self) -> str:
        """How a round's record names it."""
        return f"{self.name}:{self.digest}"


def keep(home: Path, plan: LoadingPlan) -> KeptPlan:
    """Keep a loading plan under its name; the same one twice is one.

    Raises:
        NotFoundError: ``node_missing``. ConflictError: ``loading_exists``, ``too_many_loadings``.
    """
    content = plan.model_dump(mode="json", by_alias=True)
    with Vault(home) as vault, vault.transaction("node_loading") as db:
        row = {"name": plan.name, "digest": digest(plan), "content": content, "added_at": time.time()}
        if db.execute(insert(loadings).values(row).on_conflict_do_nothing()).rowcount:
            if db.execute(select(func.count()).select_from(loadings)).scalar_one() > LIMIT:
                raise ConflictError("too_many_loadings", f"A node keeps at most {LIMIT} loading plans.")
            vault.log(db, "loading_added", plan.name, digest(plan))
        found = _one(db, plan.name)
        if found.digest != digest(plan):
            raise ConflictError(
                "loading_exists",
                f"There is another loading plan {plan.name} on this node.",
                "What a record names must not change under its name.",
                f"Give this one another name, or remove the other: `foedus node loading remove {plan.name}`.",
            )
        return found


def chosen(home: Path, name_or_file: str) -> KeptPlan:
    """The loading plan of this name, or the one in a TOML file, which is kept.

    Raises:
        ConfigError: as :func:`foedus.data.loading_plan.read_loading_plan`. ConflictError, NotFoundError.
    """
    if name_or_file.endswith(ENDING):
        return keep(home, read_loading_plan(Path(name_or_file).expanduser()))
    return show(home, name_or_file)


def show(home: Path, name: str) -> KeptPlan:
    """The loading plan of this name.

    Raises:
        NotFoundError: ``loading_unknown``. ConfigError: ``name_refused``.
    """
    check_name(name, "loading plan")
    with Vault(home) as vault, vault.reading() as db:
        return _one(db, name)


def listed(home: Path) -> tuple[KeptPlan, ...]:
    """Every loading plan, by name."""
    with Vault(home) as vault, vault.reading() as db:
        return tuple(_kept(db, row) for row in db.execute(select(loadings).order_by("name")).all())


def forget(home: Path, name: str) -> None:
    """Forget a loading plan that no dataset is read by.

    Raises:
        NotFoundError: ``loading_unknown``. ConflictError: ``loading_used``.
    """
    with Vault(home) as vault, vault.transaction("node_loading") as db:
        found = _one(db, name)
        if found.datasets:
            raise ConflictError(
                "loading_used",
                f"The loading plan {name} is in use.",
                f"By it is read: {', '.join(found.datasets)}.",
                f"Remove that dataset first: `foedus node data remove {found.datasets[0]}`.",
            )
        db.execute(delete(loadings).where(loadings.c.name == name))
        vault.log(db, "loading_removed", name, found.digest)


def loading_of(vault: Vault, dataset: Dataset) -> KeptPlan | None:
    """The loading plan that a dataset is read by, where there is one.

    Raises:
        NotFoundError: ``loading_unknown``.
    """
    if dataset.loading is None:
        return None
    with vault.reading() as db:
        return _one(db, dataset.loading)


def _one(db: Connection, name: str) -> KeptPlan:
    row = db.execute(select(loadings).where(loadings.c.name == name)).one_or_none()
    if row is None:
        known = db.execute(select(loadings.c.name).order_by("name")).scalars().all()
        raise NotFoundError(
            "loading_unknown",
            f"There is no loading plan {name!r:.80} on this node.{nearest(name, known)}",
            "",
            f"See `foedus node loading list`; a file of one ends in {ENDING}.",
        )
    return _kept(db, row)


def _kept(db: Connection, row: Row[Any]) -> KeptPlan:
    uses = select(datasets.c.client).where(datasets.c.loading == row.name).order_by("client")
    return KeptPlan(row.name, row.digest, row.content, row.added_at, tuple(db.execute(uses).scalars()))
