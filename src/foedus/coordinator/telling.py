"""To tell an event: its row, under the run's next number, and an outbox row for each webhook, in the step's commit.

The number is taken from the run's row, which the step thereby holds to its end. So events of one run are committed in
the order of their numbers, also where several processes write, and a reader who goes on after a number misses none.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from foedus.coordinator.bells import of_run
from foedus.domain.plain import Json
from foedus.store.audit import Act, record
from foedus.store.lifecycle import deliveries, webhooks
from foedus.store.tables import events, runs
from foedus.store.unit_of_work import notice
from foedus.wire.events import Kind, RunEvent

MODEL = "model"
OUTBOX = "outbox"
"""The bell of what sends to webhooks."""

AUDITED = frozenset({"run_aligned", "run_started", "run_completed", "run_failed", "round_committed", "state_mended"})
"""Events that stand in the audit log, too: the coordinator's own acts. What people do is recorded where they do it."""


def tell(tx: Connection, run: Row[Any], kind: Kind, now: float, **facts: Json) -> None:
    """Append an event of this run, for all who follow it."""
    counted = update(runs).where(runs.c.id == run.id).values(told=runs.c.told + 1).returning(runs.c.told)
    number = tx.execute(counted).scalar_one()
    common: dict[str, Any] = {"id": number, "kind": kind, "run": run.id, "at": now, "model": run.parts.get(MODEL)}
    event = RunEvent.model_validate({**common, **facts})
    data = event.model_dump(mode="json", exclude_defaults=True)
    tx.execute(insert(events).values(run_id=run.id, number=number, kind=kind, data=data, at=now))
    notice(tx, of_run(run.id))
    hooks = tx.execute(select(webhooks.c.id).where(webhooks.c.run_id == run.id)).scalars().all()
    rows = [{"webhook_id": h, "number": number, "body": data, "status": "pending", "next_at": now} for h in hooks]
    if rows:
        tx.execute(insert(deliveries), rows)
        notice(tx, OUTBOX)
    if kind in AUDITED:
        detail = {key: value for key, value in facts.items() if key in ("round", "model_digest", "reason")}
        record(tx, Act("coordinator", f"runs.{kind.removeprefix('run_')}", run.id, run.org_id, detail=detail))
