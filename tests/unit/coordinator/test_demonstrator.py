"""Updates that are not wanted change nothing (D3, D4); too few clients are waited for, or end the run by rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus.coordinator import assignments, steering
from foedus.coordinator.bells import RUNS, of_run
from foedus.coordinator.events import news
from foedus.coordinator.supervisor import Supervisor
from tests.unit.coordinator.scene import Scene, begin, refusal, supervised, until

CLIENTS = ("alpha", "beta")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with supervised(tmp_path, CLIENTS) as made:
        yield made


def test_d3_an_update_for_another_round_or_state_or_from_somebody_else_is_refused(scene: Scene) -> None:
    run = begin(scene)
    first = {client: scene.take(client) for client in CLIENTS}
    stranger = scene.enrol("gamma", tags=("faces",))
    message = scene.message(first["alpha"])
    error = refusal(lambda: assignments.contribute(scene.live, stranger, first["alpha"].id, message))
    assert (error.code, error.http_status) == ("assignment_unknown", 404), "as for one that is not there"
    with scene.live.store.transaction("pause_run") as tx:
        steering.pause(tx, run)
    scene.live.bells.ring(of_run(run))
    error = refusal(lambda: scene.contribute(first["alpha"]))
    assert (error.code, error.http_status) == ("round_closed", 410)
    with scene.live.store.transaction("resume_run") as tx:
        steering.resume(tx, run)
    scene.live.bells.ring(RUNS, of_run(run))
    for client in CLIENTS:
        scene.contribute(scene.take(client))
    until(lambda: scene.show(run).stage == "testing")
    told = [event.kind for event in news(scene.live, run, 0).events]
    for wrong in first.values():
        late = scene.message(wrong, seconds=9.0, metrics={"loss": 9.0})
        error = refusal(lambda w=wrong, m=late: assignments.contribute(scene.live, scene.node_of[w.client], w.id, m))  # type: ignore[misc]
        assert error.code in ("round_closed", "already_answered")
    assert [event.kind for event in news(scene.live, run, 0).events] == told
    scene.play(run, CLIENTS)
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


def test_d4_a_second_update_of_a_client_completes_the_round_for_nobody(scene: Scene) -> None:
    run = begin(scene)
    mine, other = scene.take("alpha"), scene.take("beta")
    assert scene.contribute(mine) == "counted"
    assert scene.contribute(mine) == "counted", "the same told twice is answered the same"
    error = refusal(lambda: scene.contribute(mine, metrics={"loss": 0.25}))
    assert (error.code, error.http_status) == ("already_answered", 409)
    assert (scene.show(run).stage, scene.show(run).round) == ("reporting", 0)
    scene.contribute(other)
    scene.play(run, CLIENTS)
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


@pytest.mark.parametrize(
    ("answering", "ended"),
    [((), "failed"), (("alpha",), "failed"), (("alpha", "beta"), "completed")],
    ids=["all stragglers", "below the minimum", "exactly the minimum"],
)
def test_case_26_d7_too_few_clients_end_a_round_by_rule_and_never_hang_it(
    answering: tuple[str, ...], ended: str, scene: Scene
) -> None:
    scene.size = 3
    scene.changes = {
        "cohort": {"size": 3, "minimum": 2},
        "schedule": {"name": "synchronous", "deadline": (0.4, 1.5, 2.5)[len(answering)]},  # who answers is in time
        "test": {"ratio": 0.0},
    }
    run = begin(scene)
    until(lambda: scene.show(run).waiting_for == "1 more dataset tagged digits has to join")
    assert scene.show(run).status == "waiting" and scene.show(run).stage == "", "with too few nodes it waits"
    scene.enrol("gamma")
    scene.play(run, answering)
    view = scene.show(run)
    assert view.status == ended
    told = [event for event in news(scene.live, run, 0).events if event.kind == "round_abandoned"]
    if ended == "failed":
        assert [event.attempt for event in told] == [0, 1, 2]
        assert all(event.reason == f"{len(answering)} of 3 contributed; 2 are needed" for event in told)
        assert view.reason.startswith("too_few_contributions: The phase train of round 1 was abandoned 3 times.")
    else:
        assert told == []
        assert view.model_digest == scene.expected(answering)


def test_case_26_a_run_without_any_node_waits_and_says_so(tmp_path: Path) -> None:
    alone = Scene(tmp_path, size=2)
    supervisor = Supervisor(alone.live)
    supervisor.start()
    run = begin(alone)
    assert alone.show(run).waiting_for == "2 more datasets tagged digits have to join"
    assert alone.show(run).status == "waiting"
    supervisor.stop()
    assert [event.kind for event in news(alone.live, run, 0).events] == ["run_waiting"]
    alone.live.store.close()
