"""Schedules that draw, on a real database: asks that outlive their phase, staleness, turns, and what a replay makes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from foedus.client.recording import recorded
from foedus.coordinator import assignments, runs, steering
from foedus.coordinator.bells import RUNS
from foedus.coordinator.recording import heard
from foedus.coordinator.supervisor import Supervisor
from foedus.engine.replay import Recorded
from foedus.schedules.schedule import Asked, Reported, Tick
from foedus.wire.messages import Assignment, Renew, RoundView
from tests.unit.coordinator.scene import Scene, refusal, until

CLIENTS = ("alpha", "beta", "delta", "gamma")


@contextmanager
def supervised(scene: Scene) -> Iterator[None]:
    supervisor = Supervisor(scene.live)
    supervisor.start()
    scene.live.bells.ring(RUNS)
    try:
        yield
    finally:
        supervisor.stop()


def made(folder: Path, size: int, rounds: int, **schedule: Any) -> Scene:
    """Four clients, of whom ``size`` work at any time, and no tests."""
    cohort = {"size": size, "population": len(CLIENTS)}
    scene = Scene(folder, size, rounds, {"schedule": schedule, "cohort": cohort, "test": {"ratio": 0.0}})
    for client in CLIENTS:
        scene.enrol(client)
    return scene


def rounds_of(scene: Scene, run: str) -> tuple[RoundView, ...]:
    with scene.live.store.reading() as tx:
        return runs.list_rounds(tx, run).rounds


def recording(scene: Scene, run: str, rounds: int) -> list[Recorded]:
    with scene.live.store.reading() as tx:
        return [recorded(phase) for number in range(1, rounds + 1) for phase in heard(tx, run, number).phases]


def test_a_buffer_as_large_as_the_population_is_the_synchronous_schedule_bit_for_bit(tmp_path: Path) -> None:
    scene = made(tmp_path, 4, 3, name="buffered", buffer=4)
    run = scene.submit()
    with supervised(scene):
        scene.play(run, CLIENTS)
    view = scene.show(run)
    assert (view.status, view.round, view.reason) == ("completed", 3, "")
    assert view.model_digest == scene.expected(CLIENTS)
    assert [row.phases[0].asked for row in rounds_of(scene, run)] == [CLIENTS] * 3


def test_an_ask_outlives_its_phase_and_counts_later_by_its_staleness(tmp_path: Path) -> None:
    """One of two slots is slow for two rounds; the other makes both models meanwhile."""
    scene = made(tmp_path, 2, 3, name="buffered", buffer=1, selector="round_robin")
    run = scene.submit()
    with supervised(scene):
        slow = scene.take("alpha")
        assert scene.contribute(scene.take("beta")) == "counted"
        assert scene.contribute(scene.take("delta")) == "counted"
        scene.take("gamma")
        assert scene.contribute(slow) == "counted"
        until(lambda: scene.show(run).status == "completed")
    phases = [row.phases[0] for row in rounds_of(scene, run)]
    assert [phase.asked for phase in phases] == [("alpha", "beta"), ("delta",), ("gamma",)]
    counted = [[(r.client, r.staleness) for r in phase.receipts] for phase in phases]
    assert counted == [[("beta", 0)], [("delta", 0)], [("alpha", 2)]]
    assert slow.broadcast == {"model": scene.command().parameters}
    last = recording(scene, run, 3)[-1]
    assert [type(event) for event in last.events[:2]] == [Tick, Asked]
    assert isinstance(last.events[-1], Reported)
    assert (last.events[-1].client, last.events[-1].staleness) == ("alpha", 2)


def test_case_8_an_update_is_weighed_by_its_staleness_and_refused_beyond_the_maximum(tmp_path: Path) -> None:
    scene = made(
        tmp_path, 2, 3, name="buffered", buffer=1, selector="round_robin", staleness={"name": "constant", "maximum": 1}
    )
    run = scene.submit()
    with supervised(scene):
        slow, node = scene.take("alpha"), scene.node_of["alpha"]
        scene.contribute(scene.take("beta"))
        scene.contribute(scene.take("delta"))
        until(lambda: scene.show(run).round == 2)
        told = refusal(lambda: assignments.renew(scene.live, node, slow.id, Renew(token=slow.token)))
        assert (told.code, told.http_status) == ("update_stale", 410)
        before = scene.data(run)
        late = refusal(lambda: scene.contribute(slow))
        assert (late.code, late.http_status) == ("update_stale", 410)
        assert scene.data(run) == before
        scene.contribute(scene.take("gamma"))
        until(lambda: scene.show(run).status == "completed")
    last = rounds_of(scene, run)[-1].phases[0]
    assert [(r.client, r.failure.partition(":")[0]) for r in last.receipts] == [
        ("alpha", "update_stale"),
        ("gamma", ""),
    ]


def test_who_does_not_answer_within_the_deadline_frees_its_place_and_is_told(tmp_path: Path) -> None:
    scene = made(tmp_path, 1, 1, name="buffered", buffer=1, deadline=1.5, selector="round_robin")
    run = scene.submit()
    with supervised(scene):
        silent = scene.take("alpha")
        scene.contribute(scene.take("beta"))
        until(lambda: scene.show(run).status == "completed")
        assert refusal(lambda: scene.contribute(silent)).code in ("round_closed", "already_answered")
    receipts = rounds_of(scene, run)[0].phases[0].receipts
    assert [(r.client, r.failure.partition(":")[0]) for r in receipts] == [("alpha", "no_answer"), ("beta", "")]


def test_who_is_out_when_the_run_ends_is_told_to_stop_and_who_was_asked_before_a_rest_has_as_long_again(
    tmp_path: Path,
) -> None:
    scene = made(tmp_path, 2, 1, name="buffered", buffer=1, deadline=2.5, selector="round_robin")
    run = scene.submit()
    with supervised(scene):
        slow = scene.take("alpha")
        with scene.live.store.transaction("pause_run") as tx:
            steering.pause(tx, run)
    time.sleep(2.7)
    scene.reopen()
    with scene.live.store.transaction("resume_run") as tx:
        steering.resume(tx, run)
    with supervised(scene):
        again = scene.take("alpha")
        assert again.id == slow.id
        scene.contribute(scene.take("beta"))
        until(lambda: scene.show(run).status == "completed")
        told = scene.poll("alpha", held=(slow.id,))
        assert told is not None
        assert told.stop == (slow.id,)
    receipts = rounds_of(scene, run)[0].phases[0].receipts
    assert [(r.client, r.failure) for r in receipts] == [("beta", "")]


def test_the_model_passes_from_client_to_client(tmp_path: Path) -> None:
    scene = made(tmp_path, 1, 4, name="cyclic")
    run = scene.submit()
    with supervised(scene):
        scene.play(run, CLIENTS)
    phases = [row.phases[0] for row in rounds_of(scene, run)]
    assert [phase.asked for phase in phases] == [(client,) for client in CLIENTS]


def test_whose_turn_passes_is_skipped(tmp_path: Path) -> None:
    scene = made(tmp_path, 1, 1, name="cyclic", deadline=1.5)
    run = scene.submit()
    with supervised(scene):
        scene.take("alpha")
        scene.contribute(scene.take("beta"))
        until(lambda: scene.show(run).status == "completed")
    phase = rounds_of(scene, run)[0].phases[0]
    assert phase.asked == ("alpha", "beta")
    assert [r.failure.partition(":")[0] for r in phase.receipts] == ["no_answer", ""]


def test_a_timed_phase_closes_over_whoever_reported(tmp_path: Path) -> None:
    scene = made(tmp_path, 2, 2, name="timed", every=0.5, selector="round_robin")
    run = scene.submit()
    with supervised(scene):
        slow = scene.take("alpha")
        scene.contribute(scene.take("beta"))
        until(lambda: scene.show(run).round == 1)
        scene.contribute(slow)
        until(lambda: scene.show(run).status == "completed")
    first, second = (row.phases[0] for row in rounds_of(scene, run))
    assert [r.client for r in first.receipts if not r.failure] == ["beta"]
    assert ("alpha", 1) in [(r.client, r.staleness) for r in second.receipts if not r.failure]


@pytest.mark.parametrize("answered", [0, 1, 2, 3])
def test_a_new_process_between_draws_hears_the_same_and_goes_on(answered: int, tmp_path: Path) -> None:
    scene = made(tmp_path, 2, 3, name="buffered", buffer=1, selector="round_robin")
    run = scene.submit()
    held: dict[str, Assignment] = {}

    def answer(client: str, asked: str) -> None:
        """Contribute when another was asked, so that it is known with which model that one began."""
        for name in (asked, client):
            held[name] = held.get(name) or scene.take(name)
        scene.contribute(held[client])

    steps = (("beta", "alpha"), ("alpha", "delta"), ("delta", "gamma"))
    with supervised(scene):
        for step in steps[:answered]:
            answer(*step)
        first = recording(scene, run, 3)
    scene.reopen()
    with supervised(scene):
        for step in steps[answered:]:
            answer(*step)
        until(lambda: scene.show(run).status == "completed")
    phases = [row.phases[0] for row in rounds_of(scene, run)]
    counted = [[(r.client, r.staleness) for r in phase.receipts] for phase in phases]
    assert counted == [[("beta", 0)], [("alpha", 1)], [("delta", 1)]]
    for before, after in zip(first, recording(scene, run, 3), strict=False):
        assert (after.order, after.events[: len(before.events)]) == (before.order, before.events)


def test_what_is_answered_while_the_model_is_tested_is_heard_by_the_next_phase(tmp_path: Path) -> None:
    scene = made(tmp_path, 2, 2, name="buffered", buffer=1, selector="round_robin")
    scene.changes["test"] = {"ratio": 0.2}
    run = scene.submit()
    with supervised(scene):
        slow = scene.take("alpha")
        scene.contribute(scene.take("beta"))
        until(lambda: scene.show(run).phase == "test")
        assert scene.contribute(slow) == "counted"
        scene.play(run, CLIENTS)
    second = rounds_of(scene, run)[1].phases[0]
    assert [(r.client, r.staleness) for r in second.receipts] == [("alpha", 1)]
    assert recording(scene, run, 2)[2].events[0] == Reported("alpha", 0.0, 1)
