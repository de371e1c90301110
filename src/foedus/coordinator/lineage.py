"""Where the models of a run come from, and the updates that they were made of, as the rounds' records tell."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from foedus.coordinator.run_rows import find_run, spec_of
from foedus.coordinator.runs import model_of
from foedus.domain.run import RunSpec
from foedus.store.artifacts import Artifacts
from foedus.store.tables import rounds
from foedus.wire.lineage import ContributionView, Lineage, UpdateList, UpdateView


def lineage(tx: Connection, run: str, number: int) -> Lineage:
    """The descent of the model after a round.

    Raises:
        NotFoundError: ``run_unknown``, ``model_missing``.
    """
    row, model = find_run(tx, run), model_of(tx, run, number)
    spec, receipts = spec_of(row), list(_receipts(tx, run, number))
    return Lineage(
        model=model,
        parent=model_of(tx, run, number - 1) if number else None,
        contributions=tuple(
            ContributionView(
                client=receipt["client"],
                phase=phase,
                update=receipt["digest"],
                weights=receipt["weights"],
                staleness=receipt["staleness"],
            )
            for phase, receipt in receipts
            if receipt["digest"]
        ),
        failed=tuple(sorted({receipt["client"] for _, receipt in receipts if receipt["failure"]})),
        plan=row.plan,
        strategy=spec.strategy.name,
        options=spec.strategy.options,
        seed=spec.seed,
        author=row.author,
        submitted_at=datetime.fromtimestamp(row.created_at, UTC),
    )


def updates(tx: Connection, artifacts: Artifacts, run: str, number: int) -> UpdateList:
    """What clients sent in a round that was committed, and whether it is kept.

    Raises:
        NotFoundError: ``run_unknown``, ``model_missing``.
    """
    row = find_run(tx, run)
    model_of(tx, run, number)
    keeps = keeps_updates(spec_of(row))
    return UpdateList(
        updates=tuple(
            UpdateView(
                run=run,
                round=number,
                phase=phase,
                client=receipt["client"],
                digest=receipt["digest"],
                size=receipt["size"],
                kept=keeps and artifacts.has(receipt["digest"]),
            )
            for phase, receipt in _receipts(tx, run, number)
            if receipt["digest"]
        )
    )


def keeps_updates(spec: RunSpec) -> bool:
    """Whether a run's updates outlive their aggregation."""
    return not spec.trainer.delete_local_models_after_aggregation


def _receipts(tx: Connection, run: str, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each receipt of a round, with its phase, in the order of phases and names."""
    here = (rounds.c.run_id == run, rounds.c.round == number)
    record = tx.execute(select(rounds.c.record).where(*here)).scalar_one()
    for phase in record.get("phases", ()):
        for receipt in phase["receipts"]:
            yield phase["phase"], receipt
