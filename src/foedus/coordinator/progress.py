"""How work goes, as nodes stream it: taken, kept for a while, and told. No round depends on it."""

from __future__ import annotations

import time

from sqlalchemy import Connection, delete, func, insert, select

from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.live import Live
from foedus.coordinator.run_rows import find_run
from foedus.domain.errors import BusyError
from foedus.store.progress import progress
from foedus.store.tables import assignments
from foedus.wire.progress import EVERY, PAGE, Noted, Point, ProgressList, ProgressView, Report, Reports

KEPT, KEPT_BYTES = 5000, 64 << 20
"""Reports of a run that are kept, the newest, and bytes of them."""


def note(live: Live, node: NodeIdentity, command: Reports) -> Noted:
    """Keep what a node says of assignments that were made for it.

    Raises:
        BusyError: ``progress_too_often``.
    """
    now = time.time()
    with live.store.transaction("progress", scope=node.id) as tx:
        last = tx.execute(select(func.max(progress.c.at)).where(progress.c.node_id == node.id)).scalar()
        if last is not None and 0 <= now - last < EVERY / 2:
            raise BusyError("progress_too_often", f"A node says how its work goes once in {EVERY:g} s.")
        told = {report.assignment: report for report in command.reports}
        asked = select(assignments).where(assignments.c.id.in_(told), assignments.c.node_id == node.id)
        rows = tx.execute(asked).all()
        if rows:
            of = ("run_id", "round", "phase", "client", "node_id")
            values = [{name: getattr(row, name) for name in of} | _kept(told[row.id], now) for row in rows]
            tx.execute(insert(progress), values)
        for run in {row.run_id for row in rows}:
            _trim(tx, run)
    return Noted(kept=len(rows))


def of_run(tx: Connection, run: str, after: int, client: str | None, newest: int | None) -> ProgressList:
    """What is kept of a run: after a number, or the ``newest`` so many; of one client, or of all.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    mine = [progress.c.run_id == run, progress.c.seq > after, *([progress.c.client == client] if client else [])]
    order = progress.c.seq.desc() if newest else progress.c.seq
    limit = min(newest or PAGE, PAGE)
    find_run(tx, run)
    rows = tx.execute(select(progress).where(*mine).order_by(order).limit(limit + 1)).all()
    found = sorted(rows[:limit], key=lambda row: row.seq)
    views = tuple(
        ProgressView(
            id=row.seq,
            run=row.run_id,
            round=row.round,
            phase=row.phase,
            client=row.client,
            at=row.at,
            points=tuple(map(Point.model_validate, row.points)),
            cpu=row.cpu,
            memory=row.memory,
            lines=tuple(row.lines),
        )
        for row in found
    )
    return ProgressList(reports=views, more=not newest and len(rows) > limit)


def _kept(report: Report, now: float) -> dict[str, object]:
    points = [point.model_dump(mode="json") for point in report.points]
    kept = {"points": points, "cpu": report.cpu, "memory": report.memory, "lines": list(report.lines)}
    return {**kept, "at": now, "size": len(report.model_dump_json())}


def _trim(tx: Connection, run: str) -> None:
    newest = select(progress.c.seq).where(progress.c.run_id == run).order_by(progress.c.seq.desc())
    so_far = func.sum(progress.c.size).over(order_by=progress.c.seq.desc()).label("so_far")
    sums = select(progress.c.seq, so_far).where(progress.c.run_id == run).subquery()
    too_large = tx.execute(select(func.max(sums.c.seq)).where(sums.c.so_far > KEPT_BYTES)).scalar()
    last = max(tx.execute(newest.offset(KEPT).limit(1)).scalar() or 0, too_large or 0)
    if last:
        tx.execute(delete(progress).where(progress.c.run_id == run, progress.c.seq <= last))
