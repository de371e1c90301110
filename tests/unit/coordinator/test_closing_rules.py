"""When a round closes, and what becomes of those who are late, wrong, away, silent or on another clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from foedus.coordinator import assignments, measures, runs
from foedus.coordinator.bells import RUNS
from foedus.coordinator.supervisor import Supervisor
from foedus.domain.codec import encode
from foedus.domain.errors import FoedusError
from foedus.domain.tree import State
from foedus.store import tables
from foedus.wire.messages import Fail, PhaseView, Renew
from tests.unit.coordinator.scene import Scene, contribution, refusal, until

CLIENTS = ("alpha", "beta", "gamma")
NO_TESTS = {"test": {"ratio": 0.0}}


@contextmanager
def running(scene: Scene) -> Iterator[str]:
    """A submitted run with its driver."""
    supervisor = Supervisor(scene.live)
    supervisor.start()
    run = scene.submit()
    scene.live.bells.ring(RUNS)
    try:
        yield run
    finally:
        supervisor.stop()
        scene.live.store.close()


def made(folder: Path, rounds: int = 1, enrolled: tuple[str, ...] = CLIENTS, **changes: Any) -> Scene:
    scene = Scene(folder, rounds=rounds, changes={**NO_TESTS, **changes})
    for client in enrolled:
        scene.enrol(client)
    return scene


def phases_of(scene: Scene, run: str) -> list[PhaseView]:
    with scene.live.store.reading() as tx:
        return [row.phases[0] for row in runs.list_rounds(tx, run).rounds]


def rows(scene: Scene) -> dict[str, Any]:
    """All that is recorded of contributions, and the run's state."""
    with scene.live.store.reading() as tx:
        found = [tuple(row) for row in tx.execute(select(tables.assignments).order_by(tables.assignments.c.id))]
        events = tx.execute(select(func.count()).select_from(tables.phase_events)).scalar_one()
        state = tx.execute(select(tables.runs.c.data, tables.runs.c.parts)).one()
    return {"assignments": found, "events": events, "data": state.data, "parts": state.parts}


def status_of(scene: Scene, assignment: str) -> str:
    with scene.live.store.reading() as tx:
        here = tables.assignments.c.id == assignment
        return str(tx.execute(select(tables.assignments.c.status).where(here)).scalar_one())


def codes(*actions: Any) -> list[tuple[str, int, str]]:
    """How each action is refused, word for word."""
    errors = [refusal(action) for action in actions]
    return [(error.code, error.http_status, str(error)) for error in errors]


def test_case_6_a_late_update_gets_round_closed_is_counted_and_not_stored_and_the_node_goes_on(tmp_path: Path) -> None:
    scene = made(tmp_path, 2, cohort={"size": 2, "over_selection": 1.5, "population": 3})
    with running(scene) as run:
        taken = {client: scene.take(client) for client in CLIENTS}
        for client in ("alpha", "beta"):
            scene.contribute(taken[client])
        until(lambda: scene.show(run).round == 1)
        before = rows(scene)["data"], rows(scene)["parts"], rows(scene)["events"]
        late = taken["gamma"]
        for _ in range(3):
            error = refusal(lambda: scene.contribute(late))
            assert (error.code, error.http_status) == ("round_closed", 410)
        assert (rows(scene)["data"], rows(scene)["parts"], rows(scene)["events"]) == before
        assert status_of(scene, late.id) == "late"
        with scene.live.store.reading() as tx:
            kept = tx.execute(select(tables.assignments.c.update).where(tables.assignments.c.id == late.id)).scalar()
        assert kept is None
        before_it = measures.CONTRIBUTIONS.labels("late")._value.get()
        measures.contribution_refused(refusal(lambda: scene.contribute(late)))
        assert measures.CONTRIBUTIONS.labels("late")._value.get() == before_it + 1
        assert scene.take("gamma").round == 2
        scene.play(run, CLIENTS)
    assert [receipt.failure.partition(":")[0] for receipt in phases_of(scene, run)[0].receipts] == ["", "", "no_answer"]


def test_case_7_the_future_the_unknown_and_the_others_are_told_alike(tmp_path: Path) -> None:
    """A round is named by its assignment alone, so a future one has no name yet."""
    scene = made(tmp_path)
    with running(scene):
        mine, theirs = scene.take("alpha"), scene.take("beta")
        node, before = scene.node_of["alpha"], rows(scene)
        message = scene.message(mine)
        future = "as_" + "0" * 20
        refused = codes(
            *(
                lambda other=other, use=use, said=said: use(scene.live, node, other, said)
                for other in (theirs.id, future, "as_nothing")
                for use, said in (
                    (assignments.contribute, message),
                    (assignments.fail, Fail(token=1, code="x", reason="")),
                    (assignments.renew, Renew(token=1)),
                )
            )
        )
        assert len(refused) == 9
        assert set(refused) == {refused[0]}
        assert refused[0][:2] == ("assignment_unknown", 404)
        assert rows(scene) == before


def test_d3_an_update_for_the_wrong_round_from_a_stranger_or_in_the_wrong_state_changes_nothing(tmp_path: Path) -> None:
    """As 410, 404 (which tells a stranger nothing, case 7) and 409."""
    scene = made(tmp_path, 2)
    with running(scene) as run:
        first = {client: scene.take(client) for client in CLIENTS}
        fresh = scene.poll("alpha")
        assert fresh is None
        for client in CLIENTS:
            scene.contribute(first[client])
        again = scene.take("alpha")
        assert again.round == 2
        before = rows(scene)
        other = scene.message(first["alpha"], weights={"examples": 77.0})
        wrong_round = refusal(
            lambda: assignments.contribute(scene.live, scene.node_of["alpha"], first["alpha"].id, other)
        )
        stranger = refusal(lambda: assignments.contribute(scene.live, scene.node_of["beta"], again.id, other))
        untaken = scene.message(again, token=again.token + 1)
        wrong_state = refusal(lambda: assignments.contribute(scene.live, scene.node_of["alpha"], again.id, untaken))
        assert (wrong_round.http_status, stranger.http_status, wrong_state.http_status) == (409, 404, 409)
        assert (wrong_round.code, stranger.code, wrong_state.code) == (
            "already_answered",
            "assignment_unknown",
            "lease_lost",
        )
        assert rows(scene) == before
        scene.contribute(again)
        scene.play(run, CLIENTS)
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


def test_d4_a_second_upload_of_one_client_never_completes_the_round_for_another(tmp_path: Path) -> None:
    scene = made(tmp_path, 1)
    with running(scene) as run:
        taken = {client: scene.take(client) for client in CLIENTS}
        assert scene.contribute(taken["alpha"]) == "counted"
        assert scene.contribute(taken["beta"]) == "counted"
        for _ in range(5):
            assert scene.contribute(taken["alpha"]) == "counted", "told again, it is answered as before"
        other = scene.message(taken["alpha"], weights={"examples": 3.0})
        error = refusal(lambda: assignments.contribute(scene.live, scene.node_of["alpha"], taken["alpha"].id, other))
        assert error.code == "already_answered"
        time.sleep(0.2)
        assert (scene.show(run).round, scene.show(run).status) == (0, "running")
        assert rows(scene)["events"] == 2
        scene.contribute(taken["gamma"])
        until(lambda: scene.show(run).status == "completed")
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize(
    ("schedule", "others"),
    [({"deadline": 600.0}, ("beta", "gamma")), ({"name": "buffered", "buffer": 2}, ("beta",))],
    ids=["synchronous", "buffered"],
)
def test_case_19_a_jump_of_the_coordinators_clock_ends_no_phase_and_gives_up_no_ask(
    schedule: dict[str, Any], others: tuple[str, ...], hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline of a synchronous phase is far off, and that of a buffered ask; only measured time counts."""
    scene, wall = made(tmp_path, 1, schedule=schedule, cohort={"size": 3}), time.time
    with running(scene) as run, monkeypatch.context() as patched:
        taken = {client: scene.take(client) for client in CLIENTS}
        patched.setattr(time, "time", lambda: wall() + hours * 3600)
        if hours > 0:
            taken = {client: scene.take(client) for client in CLIENTS}
            assert {ask.token for ask in taken.values()} == {2}, (
                "a lease was over by the clock, and is the node's again"
            )
        scene.contribute(taken["alpha"])
        time.sleep(0.3)
        assert (scene.show(run).round, scene.show(run).status) == (0, "running")
        for client in others:
            scene.contribute(taken[client])
        until(lambda: scene.show(run).status == "completed")
    assert all(not receipt.failure for receipt in phases_of(scene, run)[0].receipts)


def test_case_21_a_node_whose_uploads_go_nowhere_is_told_to_stop(tmp_path: Path) -> None:
    """It can poll: its lease expires, is its again with a higher token, and ends with the phase."""
    scene = made(tmp_path, 1, schedule={"deadline": 4.0}, cohort={"size": 3, "minimum": 2})
    scene.live = type(scene.live)(scene.live.store, scene.live.artifacts, lease=0.2)
    with running(scene) as run:
        taken = {client: scene.take(client) for client in CLIENTS}
        for client in ("alpha", "beta"):
            scene.contribute(taken[client])
        stuck = taken["gamma"]
        until(lambda: bool((found := scene.poll("gamma")) and found.assignments and found.assignments[0].token == 2))
        assert scene.poll("gamma", held=(stuck.id,)) is None or status_of(scene, stuck.id) == "leased"
        until(lambda: scene.show(run).status == "completed")
        told = scene.poll("gamma", held=(stuck.id,))
        assert told is not None
        assert told.stop == (stuck.id,)
        assert status_of(scene, stuck.id) == "closed"
    failures = {receipt.client: receipt.failure.partition(":")[0] for receipt in phases_of(scene, run)[0].receipts}
    assert failures == {"alpha": "", "beta": "", "gamma": "no_answer"}


@pytest.mark.parametrize(
    ("answering", "ended"), [(0, "failed"), (1, "failed"), (2, "completed"), (3, "completed")], ids=str
)
def test_case_26_below_the_minimum_it_is_abandoned_and_at_it_closed(answering: int, ended: str, tmp_path: Path) -> None:
    """All of them stragglers, too few, exactly enough, all; three attempts, then the run fails and says why."""
    deadline = (0.4, 1.5, 2.5, 60.0)[answering]  # who answers is in time on a loaded machine, too
    scene = made(tmp_path, 1, schedule={"deadline": deadline}, cohort={"size": 3, "minimum": 2})
    done = set[str]()
    with running(scene) as run:

        def step() -> bool:
            for client in CLIENTS[:answering]:
                for ask in getattr(scene.poll(client), "assignments", ()):
                    scene.contribute(ask)
                    done.add(ask.id)
            return scene.show(run).status in ("completed", "failed")

        until(step)
    view = scene.show(run)
    assert view.status == ended
    if ended == "failed":
        assert view.reason.startswith("too_few_contributions: The phase train of round 1 was abandoned 3 times.")
        assert f"{answering} of 3 contributed; 2 are needed" in view.reason
        assert len(done) == 3 * answering
    else:
        assert [not receipt.failure for receipt in phases_of(scene, run)[0].receipts].count(True) == answering


def test_case_26_with_no_nodes_the_run_waits_and_says_for_whom(tmp_path: Path) -> None:
    scene = made(tmp_path, 1, enrolled=())
    with running(scene) as run:
        time.sleep(0.3)
        assert scene.show(run).status == "waiting"
        assert "3 more datasets tagged digits have to join" in scene.show(run).waiting_for
        for client in CLIENTS:
            scene.enrol(client)
        scene.play(run, CLIENTS)
        assert scene.show(run).status == "completed"


def test_d7_who_leaves_or_joins_in_the_middle_does_not_change_what_a_round_waits_for(tmp_path: Path) -> None:
    """Beta offers nothing any more, delta is new: the phase waits for those whom it asked, until its deadline."""
    scene = made(tmp_path, 1, schedule={"deadline": 3.0}, cohort={"size": 3, "minimum": 2, "population": 3})
    with running(scene) as run:
        taken = {client: scene.take(client) for client in CLIENTS}
        scene.hello("beta", boot="boot-0002", state="rejected")
        scene.enrol("delta")
        scene.contribute(taken["alpha"])
        scene.contribute(taken["gamma"])
        assert scene.poll("delta") is None
        assert scene.show(run).round == 0
        until(lambda: scene.show(run).status == "completed")
    phase = phases_of(scene, run)[0]
    assert phase.asked == CLIENTS
    assert [receipt.failure.partition(":")[0] for receipt in phase.receipts] == ["", "no_answer", ""]


def test_case_33_with_all_weights_zero_the_round_is_abandoned_and_the_model_stays(tmp_path: Path) -> None:
    scene = made(tmp_path, 1)
    with running(scene) as run:
        before = scene.show(run).model_digest

        def step() -> bool:
            for client in CLIENTS:
                for ask in getattr(scene.poll(client), "assignments", ()):
                    with pytest.raises(FoedusError) as refused:
                        scene.contribute(ask, weights={"examples": 0.0})
                    assert refused.value.code == "weight_refused"
            return scene.show(run).status == "failed"

        until(step)
        assert "0 of 3 contributed" in scene.show(run).reason
        assert scene.show(run).model_digest == before


def test_case_32_negative_zero_and_denormals_are_taken_as_they_are(tmp_path: Path) -> None:
    """A norm rule may judge them; the door does not mend numbers."""
    scene = made(tmp_path, 1)
    with running(scene) as run:
        for client in CLIENTS:
            made_up = contribution(client, 1)
            update = {part: dict(tensors) for part, tensors in made_up.update.items()}
            update["parameters"]["w"][0, 0] = -0.0
            update["parameters"]["w"][1:, :] = 1e-42
            scene.contribute(scene.take(client), update=scene.live.artifacts.put_bytes(encode(State(update))))
        until(lambda: scene.show(run).status == "completed")
