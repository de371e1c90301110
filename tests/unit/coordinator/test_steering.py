"""Case 27: cancel or pause in each state of a run; it is there once, nodes stop, and what goes on ends the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection

from foedus.coordinator import polling, steering, submitting
from foedus.coordinator.bells import RUNS, of_run
from foedus.coordinator.events import news
from foedus.coordinator.run_rows import find_run
from foedus.wire.messages import Poll
from tests.unit.coordinator.scene import ADA, BOOT, CLIENTS, Scene, refusal, until

STATES = ("draft", "waiting", "reporting", "aggregating", "testing", "paused")


def steer(scene: Scene, run: str, move: Callable[[Connection, str], None]) -> None:
    """Make a move, and let everybody look."""
    with scene.live.store.transaction("steer") as tx:
        move(tx, run)
    scene.live.bells.ring(RUNS, of_run(run))


def submit(scene: Scene, **changes: Any) -> str:
    submission = submitting.prepare(scene.live.artifacts, scene.command(**changes))
    with scene.live.store.transaction("submit") as tx:
        run = submitting.submit(tx, submission, ADA).id
    scene.live.bells.ring(RUNS)
    return run


def kinds(scene: Scene, run: str) -> list[str]:
    return [event.kind for event in news(scene.live, run, 0).events]


class Gate:
    """A strategy's server part that waits until it is let through."""

    def __init__(self, scene: Scene, run: str) -> None:
        with scene.live.store.reading() as tx:
            self._strategy = scene.live.strategy(find_run(tx, run))
        self.reached, self.open = threading.Event(), threading.Event()
        scene.live.known[run] = replace(self._strategy, close=self._close)

    def _close(self, *given: Any) -> Any:
        self.reached.set()
        assert self.open.wait(120)
        return self._strategy.close(*given)


def bring(scene: Scene, state: str) -> tuple[str, Gate | None]:
    """A run in this state."""
    if state == "draft":
        return submit(scene, draft=True), None
    if state == "waiting":
        for client in CLIENTS:
            scene.hello(client, state="pending")
        return submit(scene), None
    run = submit(scene)
    if state == "paused":
        steer(scene, run, steering.pause)
        return run, None
    taken = [scene.take(client) for client in CLIENTS]
    gate = Gate(scene, run) if state == "aggregating" else None
    if state != "reporting":
        for assignment in taken:
            scene.contribute(assignment)
    if gate is not None:
        assert gate.reached.wait(120)
    elif state == "testing":
        scene.take("beta")
    assert scene.show(run).stage == state
    return run, gate


@pytest.mark.parametrize("state", STATES)
def test_case_27_a_run_is_cancelled_once_in_each_state(state: str, scene: Scene) -> None:
    run, gate = bring(scene, state)
    for _ in range(2):
        steer(scene, run, steering.cancel)
    if gate is not None:
        gate.open.set()
    assert scene.show(run).status == "cancelled"
    told = kinds(scene, run)
    assert told.count("run_cancelled") == 1
    assert told[-1] == ("round_abandoned" if state in ("reporting", "aggregating", "testing") else "run_cancelled")
    for client in CLIENTS:
        scene.hello(client)
        work = scene.poll(client)
        assert work is None or not work.assignments
    assert kinds(scene, run) == told and scene.show(run).round == 0
    for verb in (steering.start, steering.pause, steering.resume):
        assert refusal(lambda verb=verb: steer(scene, run, verb)).code in ("run_state", "run_started")  # type: ignore[misc]


@pytest.mark.parametrize("state", [state for state in STATES if state not in ("draft", "paused")])
def test_case_27_a_run_is_paused_in_each_state_and_ends_as_if_it_had_not_been(state: str, scene: Scene) -> None:
    run, gate = bring(scene, state)
    for _ in range(2):
        steer(scene, run, steering.pause)
    if gate is not None:
        gate.open.set()
    assert scene.show(run).status == "paused" and kinds(scene, run)[-1] == "run_paused"
    for client in CLIENTS:
        scene.hello(client)
        work = scene.poll(client)
        assert work is None or not work.assignments
        if state not in ("waiting", "draft"):
            assert run in polling.nothing(scene.live, scene.node_of[client], Poll(boot=BOOT)).ended
    told = kinds(scene, run)
    steer(scene, run, steering.resume)
    scene.play(run, CLIENTS)
    assert (scene.show(run).status, scene.show(run).model_digest) == ("completed", scene.expected(CLIENTS))
    until(lambda: kinds(scene, run)[-1] == "run_completed")
    assert kinds(scene, run)[: len(told)] == told
    assert kinds(scene, run).count("run_started") == kinds(scene, run).count("run_paused") == 1
