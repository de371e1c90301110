"""Alignment before round 1: nodes are asked for the columns of their tables, and the run's own reading is made of them.

A run whose ``[data.align]`` wants it is submitted without a model, and waits. Each node whose owner approved its plan
is asked once for the schema of its dataset, and tells it or why it stays there. When enough are known they are united
(:mod:`foedus.data.align`); from then on the reading is fixed, and the researcher's side sends the initial parameters.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from foedus.coordinator.bells import of_run
from foedus.coordinator.blob_rows import name_blobs
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.live import Live
from foedus.coordinator.moves import move_run
from foedus.coordinator.readiness import asked_for_schemas, is_unaligned, schemas_needed
from foedus.coordinator.run_rows import RUN, RunRow, find_run, run_unknown, spec_of
from foedus.coordinator.telling import tell
from foedus.data.align import alignment_of
from foedus.data.loading_plan import ColumnTable
from foedus.domain.errors import ConfigError
from foedus.domain.lifecycle import RunStatus
from foedus.store.aligning import schemas
from foedus.store.tables import runs
from foedus.store.unit_of_work import notice
from foedus.wire.messages import SchemaAsk, SchemaColumn, SchemaHeard, TellSchema

ASKS_AT_ONCE = 20
"""Schemas that one poll asks for at most."""


UNALIGNED = RUN.where(
    runs.c.status == RunStatus.WAITING.value, runs.c.initial_model == "", runs.c.alignment.is_(None)
).order_by(runs.c.created_at)
"""The runs that wait for schemas; every poll looks for them."""


def asks(tx: Connection, node: str) -> tuple[SchemaAsk, ...]:
    """The schemas that runs wait for of this node."""
    found = []
    for run in tx.execute(UNALIGNED).all():
        for one in asked_for_schemas(tx, run, node):
            if one.is_ready and one.schema is None:
                strategy = spec_of(run).strategy.name
                found.append(SchemaAsk(run=run.id, client=one.client, plan=run.plan, strategy=strategy))
    return tuple(found[:ASKS_AT_ONCE])


def hear(live: Live, node: NodeIdentity, command: TellSchema) -> SchemaHeard:
    """Note a schema, or why there is none; told twice, it is noted once. The one that is enough fixes the reading.

    Tables that cannot be read alike fail the run, which says why; it may be tried again when an owner has mended it.

    Raises:
        NotFoundError: ``run_unknown`` where the run does not want this dataset of this node.
    """
    with live.store.transaction("schema", scope=command.run) as tx:
        run = find_run(tx, command.run)
        mine = [one for one in asked_for_schemas(tx, run, node.id) if one.client == command.client]
        if not mine or (not mine[0].is_ready and not command.code):
            raise run_unknown(command.run)
        here = (schemas.c.run_id == run.id, schemas.c.client == command.client)
        before = tx.execute(select(schemas.c.code).where(*here)).one_or_none()
        if before is not None or not is_unaligned(run) or run.status != RunStatus.WAITING:
            return SchemaHeard(run=run.id, counted=before is not None and not before.code)
        row = {"run_id": run.id, "client": command.client, "node_id": node.id, "told_at": time.time()}
        columns = None if command.code else {name: each.model_dump() for name, each in command.columns.items()}
        told = {"columns": columns, "code": command.code, "reason": command.reason}
        tx.execute(insert(schemas).values(**row, **told))
        if not command.code:
            _settle(tx, live, run)
        notice(tx, of_run(run.id))
    return SchemaHeard(run=command.run, counted=not command.code)


def forget_kept(tx: Connection, node: str) -> None:
    """A node has begun anew, or its owner changed something: what it kept may be asked for again."""
    tx.execute(delete(schemas).where(schemas.c.node_id == node, schemas.c.code != ""))


def _settle(tx: Connection, live: Live, run: RunRow) -> None:
    """Fix the run's reading, if enough is known; what each site told is forgotten then, be it united or not."""
    spec, now = spec_of(run), time.time()
    told = (schemas.c.run_id == run.id, schemas.c.code == "")
    rows = tx.execute(select(schemas).where(*told).order_by(schemas.c.client)).all()
    if len(rows) < schemas_needed(spec):
        return
    tx.execute(delete(schemas).where(schemas.c.run_id == run.id))
    try:
        alignment = alignment_of(map(_columns, rows), spec.data.label)
    except ConfigError as error:
        move_run(tx, run, RunStatus.FAILED, now, f"{error.code}: {error.what} {error.why}")
        return
    digest = live.artifacts.put_bytes(alignment.to_bytes())
    name_blobs(tx, live.artifacts, (digest,))
    tx.execute(update(runs).where(runs.c.id == run.id).values(alignment=digest, updated_at=now))
    tell(tx, run, "run_aligned", now, asked=[row.client for row in rows])


def _columns(row: Row[Any]) -> dict[str, ColumnTable]:
    return {name: _column(SchemaColumn.model_validate(each)) for name, each in row.columns.items()}


def _column(said: SchemaColumn) -> ColumnTable:
    classes = {text: float(number) for number, text in enumerate(sorted(set(said.classes)))}
    return ColumnTable(classes=classes, type="int64" if said.whole else "float32")
