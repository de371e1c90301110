"""Case 11: a torn part of a run's state is set aside, told of, and made again of what it was made of; or the run fails.

The step is Adam's, so that the state has parts beside the model, and the tensors have several pages.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from foedus.cli.run import describe
from foedus.coordinator import measures, steering
from foedus.coordinator.bells import RUNS
from foedus.coordinator.events import news
from foedus.coordinator.integrity import check
from foedus.coordinator.mending import check_state, whole
from foedus.coordinator.retention import collect
from foedus.coordinator.run_rows import RunRow, find_run
from foedus.coordinator.supervisor import Supervisor
from foedus.store import audit
from foedus.store.artifacts import hash_file
from foedus.store.tables import assignments, steps
from foedus.wire.events import RunEvent
from tests.unit.coordinator import scene as scenes
from tests.unit.coordinator.scene import Scene, refusal, until

CLIENTS = ("alpha", "beta", "gamma")
LARGE = {
    "w": torch.randn(50, 100, generator=torch.Generator().manual_seed(5)),
    "b": torch.zeros(3),
    "n": torch.tensor(4),
}
PAGE = 4096


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Three clients, two rounds, and a model of five pages."""
    monkeypatch.setattr(scenes, "initial_model", lambda: LARGE)
    made = Scene(tmp_path)
    for client in CLIENTS:
        made.enrol(client)
    yield made
    made.live.bells.close()
    made.live.store.close()


def _after_a_round(scene: Scene) -> str:
    """A run whose first round was committed, and which nobody drives: as a killed process leaves it."""
    supervisor = Supervisor(scene.live)
    run = scene.submit()
    supervisor.start()
    _work_until(scene, lambda: scene.show(run).round == 1)
    supervisor.stop()
    scene.reopen()
    return run


def _work_until(scene: Scene, done: Callable[[], bool]) -> None:
    def step() -> bool:
        if done():
            return True
        for client in CLIENTS:
            for assignment in getattr(scene.poll(client), "assignments", ()):
                scene.contribute(assignment)
        return False

    until(step)


def _finish(scene: Scene, run: str) -> None:
    supervisor = Supervisor(scene.live)
    supervisor.start()
    try:
        scene.live.bells.ring(RUNS)
        scene.play(run, CLIENTS)
    finally:
        supervisor.stop()


def _parts(scene: Scene, run: str) -> dict[str, str]:
    with scene.live.store.reading() as tx:
        return dict(find_run(tx, run).parts)


def _file(scene: Scene, digest: str) -> Path:
    return scene.folder / "blobs" / digest[:2] / digest[2:]


def _cut(scene: Scene, digest: str, size: int) -> None:
    with _file(scene, digest).open("r+b") as file:
        file.truncate(size)


def _mended(scene: Scene, run: str) -> list[RunEvent]:
    return [event for event in news(scene.live, run, 0).events if event.kind == "state_mended"]


def _damaged(outcome: str) -> float:
    return float(measures.STATES.labels(outcome)._value.get())


def test_case_11_a_part_of_the_state_cut_at_any_page_is_made_again_of_the_same_bytes(scene: Scene) -> None:
    """Case 11: every part at every 4 KiB boundary: set aside, an alert, the same bytes; the run ends undisturbed."""
    run = _after_a_round(scene)
    parts, told = _parts(scene, run), 0
    assert len(parts) == 3 and all(_file(scene, digest).stat().st_size > 4 * PAGE for digest in parts.values())
    for part, digest in parts.items():
        content = _file(scene, digest).read_bytes()
        for size in range(0, len(content), PAGE):
            _cut(scene, digest, size)
            assert whole(scene.live, digest).read_bytes() == content
            assert (scene.folder / "spoiled" / f"blobs_{digest[:2]}_{digest[2:]}").stat().st_size == size
            told += 1
            last = _mended(scene, run)[-1]
            assert len(_mended(scene, run)) == told and (last.round, last.phase) == (1, "train")
            assert last.reason.startswith(f"The {part} of its state was damaged")
    assert not list((scene.folder / "partial").iterdir())
    _finish(scene, run)
    view = scene.show(run)
    assert (view.status, view.model_digest) == ("completed", scene.expected(CLIENTS))


@pytest.mark.parametrize("how", ["torn", "gone"])
def test_case_11_a_driver_mends_the_state_and_raises_an_alert(
    how: str, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 11: the log at ERROR, a metric, an event, the audit log and `foedus run show` tell it; the run goes on."""
    run = _after_a_round(scene)
    before, digest = _damaged("mended"), _parts(scene, run)["model"]
    if how == "torn":
        _cut(scene, digest, PAGE)
    else:
        _file(scene, digest).unlink()
    with caplog.at_level(logging.ERROR):
        _finish(scene, run)
    view = scene.show(run)
    assert (view.status, view.model_digest) == ("completed", scene.expected(CLIENTS))
    assert [event.round for event in _mended(scene, run)] == [1] and _damaged("mended") == before + 1
    assert "it was made again, of the 3 contributions to the phase train of round 1" in caplog.text
    assert len(view.alerts) == 1 and f"alert   {view.alerts[0]}" in describe(view)
    with scene.live.store.reading() as tx:
        acts = [entry.text or "" for entry in audit.entries(tx, 0, 1000, None)]
    assert sum('"runs.state_mended"' in act for act in acts) == 1


def test_case_11_what_a_run_begins_with_is_made_again_of_its_initial_model(scene: Scene) -> None:
    run = scene.submit()
    digest = next(digest for part, digest in _parts(scene, run).items() if part != "model")
    _cut(scene, digest, PAGE)
    assert hash_file(whole(scene.live, digest)) == digest
    assert _mended(scene, run)[0].reason.endswith("it was made again, of the initial model.")
    _finish(scene, run)
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


def test_case_11_what_a_state_was_made_of_stays_until_the_next_state_and_no_longer(scene: Scene) -> None:
    """A collection long after the aggregation leaves it; once the run is over nothing of it is needed."""
    run, later = _after_a_round(scene), time.time() + 10**6
    collect(scene.live.store, scene.live.artifacts, 0.0, later)
    for digest in _parts(scene, run).values():
        _cut(scene, digest, 0)
    check_state(scene.live, _row(scene, run))
    _finish(scene, run)
    collect(scene.live.store, scene.live.artifacts, 0.0, later)
    with scene.live.store.reading() as tx:
        updates = [digest for digest in tx.execute(select(assignments.c.update)).scalars() if digest]
    assert len(updates) == 6 and not any(map(scene.live.artifacts.has, updates))


def test_case_11_where_a_contribution_is_gone_as_well_the_run_fails_with_a_code_and_can_be_tried_again(
    scene: Scene,
) -> None:
    """Case 11: never served, never guessed: `state_lost` until the blob is brought back from a backup."""
    run = _after_a_round(scene)
    before, digest = _damaged("lost"), _parts(scene, run)["model"]
    content = _file(scene, digest).read_bytes()
    with scene.live.store.reading() as tx:
        of_beta = (assignments.c.client == "beta", assignments.c.round == 1, assignments.c.phase == "train")
        lost = tx.execute(select(assignments.c.update).where(*of_beta)).scalar_one()
    scene.live.artifacts.remove(lost)
    _cut(scene, digest, PAGE)
    supervisor = Supervisor(scene.live)
    supervisor.start()
    until(lambda: scene.show(run).status == "failed")
    supervisor.stop()
    scene.reopen()
    view = scene.show(run)
    assert view.reason.startswith("state_lost: ") and digest in view.reason
    assert _mended(scene, run) == [] and _damaged("lost") > before and not scene.live.artifacts.has(digest)
    _file(scene, digest).write_bytes(content)
    with scene.live.store.transaction("retry") as tx:
        steering.retry(tx, scene.live.artifacts, run)
    _finish(scene, run)
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


def test_case_11_a_check_mends_beside_the_coordinator(scene: Scene) -> None:
    run = _after_a_round(scene)
    digest = _parts(scene, run)["model"]
    _cut(scene, digest, 2 * PAGE)
    found = check(scene.live.store, scene.live.artifacts)
    assert (found.mended, found.problems) == ((digest,), ()) and len(_mended(scene, run)) == 1
    assert check(scene.live.store, scene.live.artifacts).mended == ()


def test_case_11_the_state_of_a_run_that_is_over_stays_refused(scene: Scene) -> None:
    run = scene.submit()
    _finish(scene, run)
    digest = _parts(scene, run)["model"]
    _cut(scene, digest, PAGE)
    assert refusal(lambda: whole(scene.live, digest)).code == "blob_spoiled"
    assert refusal(lambda: whole(scene.live, digest)).code == "blob_unknown"
    assert check(scene.live.store, scene.live.artifacts).problems == (f"blob {digest}: blob_unknown",)


def test_case_11_a_state_that_stale_updates_made_is_made_again(tmp_path: Path) -> None:
    """One of two slots answers two rounds late, and counts by its staleness."""
    schedule = {"name": "buffered", "buffer": 1, "selector": "round_robin"}
    cohort = {"size": 2, "population": len(CLIENTS)}
    scene = Scene(tmp_path, 2, 4, {"schedule": schedule, "cohort": cohort, "test": {"ratio": 0.0}})
    for client in CLIENTS:
        scene.enrol(client)
    supervisor, run = Supervisor(scene.live), scene.submit()
    supervisor.start()
    slow = scene.take("alpha")
    for client in ("beta", "gamma"):
        scene.contribute(scene.take(client))
    until(lambda: scene.show(run).round == 2)
    scene.contribute(slow)
    until(lambda: scene.show(run).round == 3)
    supervisor.stop()
    with scene.live.store.reading() as tx:
        factors = [step.factors for step in tx.execute(select(steps)).all()]
    assert len(factors) == 3 and all(0 < each["alpha"] < 1 for each in factors)
    for digest in _parts(scene, run).values():
        _cut(scene, digest, 0)
        assert hash_file(whole(scene.live, digest)) == digest


def _row(scene: Scene, run: str) -> RunRow:
    with scene.live.store.reading() as tx:
        return find_run(tx, run)
