"""Rounds on a real database: the same bits as in memory, through crashes, failures, deadlines and resumptions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update

from foedus.coordinator import runs, steering
from foedus.coordinator.bells import RUNS, of_run
from foedus.coordinator.events import news
from foedus.coordinator.rounds import LivePort, Stopped
from foedus.coordinator.run_rows import find_run
from foedus.coordinator.supervisor import Supervisor
from foedus.domain.round import PhaseOrder
from foedus.domain.tree import State
from foedus.engine.driver import drive
from foedus.store import crashpoints
from foedus.store.artifacts import open_artifacts
from foedus.store.tables import phases
from foedus.strategies.strategy import Phase
from foedus.wire.messages import PhaseView
from tests.balancer import Balancer
from tests.s3 import S3
from tests.unit.coordinator.scene import CLIENTS, Scene, begin, refusal, until


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    for client in CLIENTS:
        made.enrol(client)
    yield made
    made.live.bells.close()
    made.live.store.close()


@pytest.fixture
def supervised(scene: Scene) -> Iterator[Scene]:
    supervisor = Supervisor(scene.live)
    supervisor.start()
    yield scene
    supervisor.stop()


def epoch_of(scene: Scene, run: str) -> int:
    with scene.live.store.reading() as tx:
        return int(find_run(tx, run).epoch)


def kinds(scene: Scene, run: str) -> list[str]:
    return [event.kind for event in news(scene.live, run, 0).events]


def test_a_run_comes_to_the_digest_of_the_in_memory_fold(supervised: Scene) -> None:
    run = begin(supervised)
    supervised.play(run, CLIENTS)
    view = supervised.show(run)
    assert (view.status, view.round, view.reason) == ("completed", 2, "")
    assert view.model_digest == supervised.expected(CLIENTS)
    assert view.metrics == {"train/loss": 0.5, "test/loss": 1.0, "test/accuracy": 0.5}


@pytest.mark.parametrize(
    ("stop", "ended"),
    [
        ({"metric": "test/accuracy", "target": 0.4}, 1),
        ({"metric": "test/accuracy", "patience": 2}, 3),
        ({"metric": "test/accuracy", "target": 0.4, "minimum": 2}, 2),
    ],
)
def test_a_run_stops_early_across_a_new_process(scene: Scene, stop: dict[str, Any], ended: int) -> None:
    """Every round measures less than the one before."""
    scene.rounds = 5
    scene.changes = {"stop": stop}
    first = Supervisor(scene.live)
    first.start()
    run = begin(scene)
    scene.contribute(scene.take("alpha"))
    first.stop()
    scene.reopen()
    second = Supervisor(scene.live)
    second.start()
    try:
        scene.play(run, CLIENTS)
    finally:
        second.stop()
    view = scene.show(run)
    with scene.live.store.reading() as tx:
        rounds = runs.list_rounds(tx, run).rounds
    assert (view.status, len(rounds), view.rounds) == ("completed", ended, 5)
    assert view.reason.startswith(stop["metric"])


def test_rounds_and_models_are_there_afterwards(supervised: Scene) -> None:
    run = begin(supervised)
    supervised.play(run, CLIENTS)
    with supervised.live.store.reading() as tx:
        rounds, models = runs.list_rounds(tx, run).rounds, runs.list_models(tx, run).models
    assert [[phase.phase for phase in row.phases] for row in rounds] == [["train", "test"]] * 2
    assert [receipt.client for receipt in rounds[0].phases[0].receipts] == list(CLIENTS)
    assert rounds[0].phases[0].bytes_up > 0
    assert rounds[0].phases[0].bytes_down > 0
    assert [model.round for model in models] == [0, 1, 2]
    assert rounds[1].model == models[2].model_digest
    assert all(supervised.live.artifacts.size(model.blob) == model.size for model in models)


def test_who_follows_a_run_hears_of_every_move(supervised: Scene) -> None:
    run = begin(supervised)
    supervised.play(run, CLIENTS)
    until(lambda: "run_completed" in kinds(supervised, run))
    stages = ("started", "reporting", "aggregating", "testing", "committed")
    one_round = [f"round_{stage}" for stage in stages]
    assert kinds(supervised, run) == ["run_waiting", "run_started", *one_round, *one_round, "run_completed"]


def test_the_next_round_starts_from_the_states_that_were_counted(supervised: Scene) -> None:
    begin(supervised)
    first = {client: supervised.take(client) for client in CLIENTS}
    assert {assignment.state for assignment in first.values()} == {None}
    for assignment in first.values():
        supervised.contribute(assignment)
    for client in CLIENTS:
        assert supervised.take(client).state == f"{1:064x}"


@pytest.mark.parametrize("answered", [0, 1, 2, 3])
def test_a_new_process_in_the_middle_of_a_phase_comes_to_the_same_digest(scene: Scene, answered: int) -> None:
    supervisor = Supervisor(scene.live)
    supervisor.start()
    run = begin(scene)
    taken = [scene.take(client) for client in CLIENTS]
    for assignment in taken[:answered]:
        scene.contribute(assignment)
    supervisor.stop()
    scene.reopen()
    again = Supervisor(scene.live)
    again.start()
    try:
        for assignment in taken[answered:]:
            scene.contribute(assignment)
        scene.play(run, CLIENTS)
    finally:
        again.stop()
    assert scene.show(run).status == "completed"
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


class Killed(BaseException):
    """Stands for the end of a process, which nothing in it can catch."""


POINTS = [
    ("commit", name, when)
    for name in ("start_run", "open_phase", "close_phase", "commit_round", "complete_run")
    for when in ("before", "after")
] + [("rename", "blob", "before"), ("rename", "blob", "after")]


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_a_driver_that_dies_at_any_point_of_its_own_is_taken_up(
    scene: Scene, point: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scene.submit()
    driver = threading.Thread(target=lambda: drive_until_killed(scene, run), daemon=True)

    def reach(kind: str, name: str, when: str) -> None:
        if threading.current_thread() is driver and (kind, name, when) == point:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(crashpoints, "reach", reach)
        driver.start()
        until(lambda: answer_all(scene) or not driver.is_alive())
    scene.reopen()
    supervisor = Supervisor(scene.live)
    supervisor.start()
    try:
        scene.play(run, CLIENTS)
    finally:
        supervisor.stop()
    assert scene.show(run).status == "completed"
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


def drive_until_killed(scene: Scene, run: str) -> None:
    with scene.live.store.reading() as tx:
        row = find_run(tx, run)
    try:
        with LivePort(scene.live, run, row.epoch) as port:
            drive(scene.live.strategy(row), scene.rounds, 1, port)
            port.finish()
    except Killed:
        pass


def answer_all(scene: Scene) -> bool:
    """Contribute whatever is asked for; never done."""
    for client in CLIENTS:
        for assignment in getattr(scene.poll(client), "assignments", ()):
            scene.contribute(assignment)
    return False


def test_a_failed_client_leaves_a_hole_and_is_recorded(supervised: Scene) -> None:
    run = begin(supervised)
    taken = {client: supervised.take(client) for client in CLIENTS}
    assert supervised.fail(taken["beta"]) == "failed"
    supervised.contribute(taken["alpha"])
    supervised.contribute(taken["gamma"])
    supervised.play(run, CLIENTS)
    with supervised.live.store.reading() as tx:
        receipts = runs.list_rounds(tx, run).rounds[0].phases[0].receipts
    assert [receipt.failure for receipt in receipts] == ["", "plan_failed: no luck", ""]


def closed_over(scene: Scene, answering: tuple[str, ...]) -> tuple[dict[str, Any], PhaseView]:
    """Everybody is asked, and these answer: all assignments, and the only phase of the run."""
    for client in CLIENTS:
        scene.enrol(client)
    supervisor = Supervisor(scene.live)
    supervisor.start()
    try:
        run = begin(scene)
        taken = {client: scene.take(client) for client in CLIENTS}
        for client in answering:
            scene.contribute(taken[client])
        until(lambda: scene.show(run).status == "completed")
    finally:
        supervisor.stop()
    with scene.live.store.reading() as tx:
        return taken, runs.list_rounds(tx, run).rounds[0].phases[0]


def test_at_the_deadline_the_phase_closes_over_who_answered(tmp_path: Path) -> None:
    scene = Scene(tmp_path, rounds=1, changes={"schedule": {"deadline": 2.5}, "test": {"ratio": 0.0}})
    taken, phase = closed_over(scene, ("alpha", "gamma"))
    assert [receipt.failure.partition(":")[0] for receipt in phase.receipts] == ["", "no_answer", ""]
    assert refusal(lambda: scene.contribute(taken["beta"])).code == "round_closed"


def test_over_selection_closes_when_as_many_reported_as_were_wanted(tmp_path: Path) -> None:
    cohort = {"size": 2, "over_selection": 1.5}
    scene = Scene(tmp_path, size=2, rounds=1, changes={"cohort": cohort, "test": {"ratio": 0.0}})
    taken, phase = closed_over(scene, ("gamma", "alpha"))
    assert [receipt.client for receipt in phase.receipts if not receipt.failure] == ["alpha", "gamma"]
    assert phase.asked == CLIENTS
    assert refusal(lambda: scene.contribute(taken["beta"])).code == "round_closed"


def test_a_deadline_that_passed_while_nobody_ran_is_not_waited_for_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, changes={"schedule": {"deadline": 5.0}, "test": {"ratio": 0.0}})
    for client in CLIENTS:
        scene.enrol(client)
    supervisor = Supervisor(scene.live)
    supervisor.start()
    run = begin(scene)
    for client in ("alpha", "beta"):
        scene.contribute(scene.take(client))
    supervisor.stop()
    scene.reopen()
    with scene.live.store.transaction("test") as tx:
        tx.execute(update(phases).values(opened_at=phases.c.opened_at - 60.0))
    with LivePort(scene.live, run, epoch_of(scene, run)) as port:
        order = port.load().order
        assert order is not None
        port.wake_at(order, 5.0)
        heard = [port.next_event(order) for _ in range(3)]
    assert [type(event).__name__ for event in heard] == ["Reported", "Reported", "Tick"]


def test_too_few_contributions_fail_the_run_with_the_reason_and_it_may_be_resumed(supervised: Scene) -> None:
    run = begin(supervised)
    for _ in range(3):
        for client in CLIENTS:
            supervised.fail(supervised.take(client))
    until(lambda: supervised.show(run).status == "failed")
    assert supervised.show(run).reason.startswith(
        "too_few_contributions: The phase train of round 1 was abandoned 3 times."
    )
    assert "0 of 3 contributed" in supervised.show(run).reason
    take_up(supervised, run, "retry")
    supervised.play(run, CLIENTS)
    assert supervised.show(run).model_digest == supervised.expected(CLIENTS)


def test_a_test_phase_without_answers_leaves_the_round_untested(supervised: Scene) -> None:
    run = begin(supervised)
    for client in CLIENTS:
        supervised.contribute(supervised.take(client))
    for client in CLIENTS:
        supervised.fail(supervised.take(client))
    supervised.play(run, CLIENTS)
    with supervised.live.store.reading() as tx:
        first = runs.list_rounds(tx, run).rounds[0]
    assert [phase.outcome for phase in first.phases] == ["closed", "untested"]
    assert supervised.show(run).model_digest == supervised.expected(CLIENTS)


def test_a_run_waits_for_a_storage_that_is_away_while_it_is_aggregated(
    scene: Scene, s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The updates came through another replica, so that they must be fetched to be folded."""
    way, url = Balancer([s3.port]), s3.fresh()
    leading, other = (
        open_artifacts(tmp_path / name, url.replace(str(s3.port), str(port)))
        for name, port in (("leading", way.port), ("other", s3.port))
    )
    scene.live = replace(scene.live, artifacts=other)
    supervisor = Supervisor(replace(scene.live, artifacts=leading))
    supervisor.start()
    try:
        run = begin(scene)
        taken = [scene.take(client) for client in CLIENTS]
        way.replicas.clear()
        for assignment in taken:
            scene.contribute(assignment)
        until(lambda: "does not answer just now" in caplog.text, 60)
        assert (scene.show(run).status, scene.show(run).stage) == ("running", "aggregating")
        way.replicas.append(s3.port)
        scene.play(run, CLIENTS)
        assert scene.show(run).model_digest == scene.expected(CLIENTS)
        assert "run_failed" not in kinds(scene, run)
    finally:
        supervisor.stop()
        way.close()


def test_d8_an_error_while_aggregating_is_a_visible_state_and_is_tried_again(supervised: Scene) -> None:
    """A strategy's server part raises; when it is tried again, an update is gone, whose client is asked anew."""
    run = begin(supervised)
    taken = [supervised.take(client) for client in CLIENTS]
    kept = supervised.message(taken[0])
    with supervised.live.store.reading() as tx:
        strategy = supervised.live.strategy(find_run(tx, run))
    supervised.live.known[run] = replace(strategy, close=raising)
    for assignment in taken:
        supervised.contribute(assignment)
    until(lambda: supervised.show(run).status == "failed")
    view = supervised.show(run)
    assert view.reason.startswith("aggregation_failed: The contributions to the phase train of round 1 could not be")
    assert "ZeroDivisionError" in view.reason and view.stage == "aggregating" and view.round == 0
    assert kinds(supervised, run)[-2:] == ["round_aggregating", "run_failed"]
    supervised.live.artifacts.path(str(kept.update)).unlink()
    supervised.live.known[run] = strategy
    take_up(supervised, run, "retry")
    again = supervised.take(CLIENTS[0])
    assert (supervised.show(run).status, supervised.show(run).stage) == ("running", "reporting")
    supervised.contribute(again)
    supervised.play(run, CLIENTS)
    assert supervised.show(run).model_digest == supervised.expected(CLIENTS)
    assert kinds(supervised, run).count("run_started") == kinds(supervised, run).count("run_retried") == 1


def raising(*given: object) -> State:
    """The server's part of a strategy that has a defect."""
    raise ZeroDivisionError("no weights")


def test_case_27_a_paused_run_takes_nothing_and_goes_on_with_what_it_had(supervised: Scene) -> None:
    run = begin(supervised)
    taken = [supervised.take(client) for client in CLIENTS]
    supervised.contribute(taken[0])
    steer(supervised, run, steering.pause)
    assert refusal(lambda: supervised.contribute(taken[1])).code == "round_closed"
    work = supervised.poll("beta")
    assert work is None or (not work.assignments and work.ended == (run,))
    take_up(supervised, run, "resume")
    supervised.play(run, CLIENTS)
    assert supervised.show(run).model_digest == supervised.expected(CLIENTS)
    with supervised.live.store.reading() as tx:
        assert runs.list_rounds(tx, run).rounds[0].phases[0].receipts[0].failure == ""


def test_case_27_a_cancelled_run_is_cancelled_once_and_for_good(supervised: Scene) -> None:
    run = begin(supervised)
    taken = [supervised.take(client) for client in CLIENTS]
    supervised.contribute(taken[0])
    for _ in range(2):
        steer(supervised, run, steering.cancel)
    assert refusal(lambda: supervised.contribute(taken[1])).code == "round_closed"
    work = supervised.poll("beta")
    assert work is None or (not work.assignments and work.ended == (run,))
    told = kinds(supervised, run)
    assert told[-2:] == ["run_cancelled", "round_abandoned"] and told.count("run_cancelled") == 1
    assert (supervised.show(run).status, supervised.show(run).stage) == ("cancelled", "abandoned")
    for verb in ("resume", "retry"):
        assert refusal(lambda verb=verb: take_up(supervised, run, verb)).code == "run_state"  # type: ignore[misc]


def test_a_driver_of_before_a_resumption_writes_nothing(scene: Scene) -> None:
    run = scene.submit()
    with LivePort(scene.live, run, 0) as old:
        steer(scene, run, steering.pause)
        steer(scene, run, steering.resume)
        with pytest.raises(Stopped):
            old.open(PhaseOrder(1, "train", CLIENTS), *phase_of(scene, run))
    assert not scene.poll("alpha")


def phase_of(scene: Scene, run: str) -> tuple[Phase, State]:
    with scene.live.store.reading() as tx:
        row = find_run(tx, run)
    phase = scene.live.phase(row)
    assert phase is not None
    return phase, State({}, row.data)


def steer(scene: Scene, run: str, move: Callable[[Connection, str], None]) -> None:
    """Make a move, and let everybody look."""
    with scene.live.store.transaction("steer") as tx:
        move(tx, run)
    scene.live.bells.ring(RUNS, of_run(run))


def take_up(scene: Scene, run: str, verb: str) -> None:
    """Resume or retry a run."""
    artifacts = scene.live.artifacts
    steer(scene, run, steering.resume if verb == "resume" else lambda tx, run: steering.retry(tx, artifacts, run))
