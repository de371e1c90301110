"""Who leads a run where several replicas of the coordinator share a database: a lease, fenced by the run's epoch.

A driver writes only while its epoch is the run's, and whoever takes a run over raises the epoch. So a replica that was
paused, and wakes when another leads, is refused by the row it would have to agree with. Time is the database's, because
clocks of replicas differ. (Kleppmann, "How to do distributed locking", 2016, on fencing tokens:
https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html)
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Column, Connection, Float, String, Table, delete, insert, or_, select, update

from foedus.store.engines import database_time
from foedus.store.tables import metadata, runs

leaders = Table(
    "leaders",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("replica", String, nullable=False),
    Column("until", Float, nullable=False),
)


def claimable(tx: Connection, replica: str, statuses: Collection[str], *, alone: bool) -> list[tuple[str, int]]:
    """Runs in one of ``statuses`` that this replica leads or may come to lead, with their epochs; all, if ``alone``.

    Runs without a model, whose tables are still to be aligned, have nothing to drive.
    """
    query = (
        select(runs.c.id, runs.c.epoch)
        .outerjoin(leaders, leaders.c.run_id == runs.c.id)
        .where(runs.c.status.in_(statuses), runs.c.initial_model != "")
    )
    if not alone:
        free = or_(leaders.c.run_id.is_(None), leaders.c.until < database_time(tx), leaders.c.replica == replica)
        query = query.where(free)
    return [(row.id, row.epoch) for row in tx.execute(query.order_by(runs.c.created_at, runs.c.id))]


def claim(tx: Connection, run: str, replica: str, seconds: float, *, alone: bool) -> int | None:
    """Lead a run for ``seconds``, under a new epoch, which is returned; None where another replica leads it.

    The caller is alone in the run's scope: what a driver of before has begun is committed, or will be refused.
    """
    now = database_time(tx)
    row = tx.execute(select(leaders).where(leaders.c.run_id == run)).one_or_none()
    if row is not None and row.until >= now and row.replica != replica and not alone:
        return None
    tx.execute(delete(leaders).where(leaders.c.run_id == run))
    tx.execute(insert(leaders).values(run_id=run, replica=replica, until=now + seconds))
    raised = update(runs).where(runs.c.id == run).values(epoch=runs.c.epoch + 1).returning(runs.c.epoch)
    return tx.execute(raised).scalar_one_or_none()


def renew(tx: Connection, replica: str, seconds: float) -> None:
    """Go on leading what this replica leads."""
    until = database_time(tx) + seconds
    tx.execute(update(leaders).where(leaders.c.replica == replica).values(until=until))


def release(tx: Connection, replica: str, run: str | None = None) -> None:
    """Lead this run no more, or none: it has ended, or others may take over at once."""
    mine = (leaders.c.replica == replica, *(() if run is None else (leaders.c.run_id == run,)))
    tx.execute(delete(leaders).where(*mine))


def leader_of(tx: Connection, run: str) -> str | None:
    """Who leads a run, or led it last."""
    return tx.execute(select(leaders.c.replica).where(leaders.c.run_id == run)).scalar()
