"""The owner of the data decides, and foreign code that dies takes nothing with it: real coordinator, real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus.client import runs
from foedus.node.owner import approve, list_plans, reject
from tests.federation import LocalFederation, start_federation, until
from tests.plans import DIGITS, prepared


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Four nodes with the four parts of the digits example."""
    folder = tmp_path_factory.mktemp("owners")
    with start_federation(folder, prepared(folder)) as running:
        yield running


def test_a_run_shows_who_waits_for_whom_and_runs_nothing_before_all_have_approved(
    federation: LocalFederation, tmp_path: Path
) -> None:
    ready = prepared(tmp_path, "# one\n" + DIGITS)
    digest, run = ready.bundle.digest, federation.submit(ready)
    for client in federation.nodes:
        until(
            "the plan is offered", lambda c=client: digest in {plan.digest for plan in list_plans(federation.home(c))}
        )
    for client in ("c0000", "c0001", "c0002"):
        approve(federation.home(client), digest)
    until("three are ready", lambda: [c.status for c in federation.show(run).clients].count("ready") == 3)
    view = federation.show(run)
    assert view.status == "waiting"
    assert "c0003" in view.waiting_for
    assert digest[:12] in view.waiting_for
    assert str(federation.folder) not in view.model_dump_json()
    approve(federation.home("c0003"), digest)
    assert federation.finish(run).status == "completed"


def test_a_plan_that_an_owner_rejects_does_not_run_on_that_node(federation: LocalFederation, tmp_path: Path) -> None:
    ready = prepared(tmp_path, "# two\n" + DIGITS, cohort={"size": 3})
    digest, run = ready.bundle.digest, federation.submit(ready)
    for client in sorted(federation.nodes):
        home = federation.home(client)
        until("the plan is offered", lambda h=home: digest in {plan.digest for plan in list_plans(h)})
        if client == "c0001":
            reject(home, digest, "not here")
            until("the run shows it", lambda: "rejected" in {c.status for c in federation.show(run).clients})
            (refused,) = [c for c in federation.show(run).clients if c.status == "rejected"]
            assert (refused.client, refused.note) == ("c0001", "not here")
        else:
            approve(home, digest)
    assert federation.finish(run).status == "completed"
    with federation.connection() as connection:
        records = runs.rounds(connection, run).rounds
    assert all(phase.asked == ("c0000", "c0002", "c0003") for record in records for phase in record.phases)


def test_training_that_kills_its_process_is_a_failed_contribution_and_not_a_dead_node(
    federation: LocalFederation, tmp_path: Path
) -> None:
    deadly = DIGITS.replace(
        "    return nn.functional.cross_entropy(output, target)",
        "    if (target == 0).float().mean() > 0.7: import os; os._exit(9)\n"
        "    return nn.functional.cross_entropy(output, target)",
    )
    ready = prepared(tmp_path, deadly, test={"ratio": 0.0}, rounds=1)
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    with federation.connection() as connection:
        (record,) = runs.rounds(connection, run).rounds
    failures = {r.client: r.failure for r in record.phases[0].receipts if r.failure}
    assert list(failures) == ["c0002"]
    assert failures["c0002"].startswith("work_crashed")
    assert str(federation.folder) not in failures["c0002"]
    assert all(process.poll() is None for process in federation.nodes.values())
    again = prepared(tmp_path, DIGITS)
    run = federation.submit(again)
    federation.approve_all(again.bundle.digest)
    assert federation.finish(run).status == "completed"


def test_a_paused_run_rests_and_is_resumed_to_the_same_digest(federation: LocalFederation, tmp_path: Path) -> None:
    ready = prepared(tmp_path, DIGITS, rounds=6, name="again")
    whole = federation.finish(federation.submit(ready)).model_digest
    run = federation.submit(ready)
    until("round 1 is done", lambda: federation.show(run).round >= 1)
    with federation.connection() as connection:
        assert runs.pause(connection, run).status == "paused"
        assert runs.resume(connection, run).status == "running"
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", whole)
