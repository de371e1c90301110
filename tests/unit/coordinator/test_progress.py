"""How work goes: what a node streams is kept for its own assignments alone, seldom enough, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select, update

from foedus.coordinator import progress
from foedus.domain.errors import BusyError, NotFoundError
from foedus.store.progress import progress as rows
from foedus.wire.progress import Point, ProgressList, Report, Reports
from tests.unit.coordinator.scene import Scene, supervised


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with supervised(tmp_path, ("alpha", "beta")) as made:
        yield made


def report(assignment: str, step: int = 10) -> Report:
    points = (Point(step=step, steps=100, values={"loss": 1 / step}),)
    return Report(assignment=assignment, points=points, cpu=1.5, memory=1 << 32, lines=("hello",))


def note(scene: Scene, client: str, *reports: Report) -> int:
    return progress.note(scene.live, scene.node_of[client], Reports(reports=reports)).kept


def told(scene: Scene, run: str, after: int = 0, client: str | None = None, newest: int | None = None) -> ProgressList:
    with scene.live.store.reading() as tx:
        return progress.of_run(tx, run, after, client, newest)


def later(scene: Scene) -> None:
    """A second goes by."""
    with scene.live.store.transaction("test") as tx:
        tx.execute(update(rows).values(at=rows.c.at - 1.0))


def test_what_a_node_says_is_read_by_whom_it_concerns(scene: Scene, run: str) -> None:
    alpha, beta = scene.take("alpha"), scene.take("beta")
    assert note(scene, "alpha", report(alpha.id)) == 1
    assert note(scene, "beta", report(beta.id, 20)) == 1
    found = told(scene, run)
    assert [(each.client, each.round, each.phase) for each in found.reports] == [
        ("alpha", 1, "train"),
        ("beta", 1, "train"),
    ]
    first = found.reports[0]
    assert (first.points, first.cpu, first.memory, first.lines) == (report(alpha.id).points, 1.5, 1 << 32, ("hello",))
    assert [each.client for each in told(scene, run, client="beta").reports] == ["beta"]
    assert [each.client for each in told(scene, run, after=first.id).reports] == ["beta"]
    assert [each.client for each in told(scene, run, newest=1).reports] == ["beta"]
    with pytest.raises(NotFoundError):
        told(scene, "r_unknown")


def test_of_an_assignment_that_is_another_node_s_nothing_is_kept(scene: Scene, run: str) -> None:
    alpha = scene.take("alpha")
    assert note(scene, "beta", report(alpha.id), report("a_none")) == 0
    assert told(scene, run).reports == ()


def test_a_node_that_says_it_too_often_is_told_to_wait(scene: Scene, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha, now = scene.take("alpha"), time.time()
    with monkeypatch.context() as stopped:
        stopped.setattr(time, "time", lambda: now)
        note(scene, "alpha", report(alpha.id))
        with pytest.raises(BusyError) as caught:
            note(scene, "alpha", report(alpha.id))
    assert caught.value.code == "progress_too_often"
    later(scene)
    assert note(scene, "alpha", report(alpha.id)) == 1


def test_a_run_keeps_only_so_much_of_it(scene: Scene, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "KEPT", 3)
    alpha = scene.take("alpha")
    for step in range(1, 7):
        note(scene, "alpha", report(alpha.id, step))
        later(scene)
    assert [each.points[0].step for each in told(scene, run).reports] == [4, 5, 6]
    with scene.live.store.reading() as tx:
        assert tx.execute(select(func.count()).select_from(rows)).scalar() == 3


def test_a_run_keeps_only_so_many_bytes_of_it(scene: Scene, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = scene.take("alpha")
    long = [report(alpha.id, step).model_copy(update={"lines": ("x" * 400,)}) for step in range(1, 7)]
    monkeypatch.setattr(progress, "KEPT_BYTES", 3 * len(long[0].model_dump_json()) + 200)
    for each in long:
        note(scene, "alpha", each)
        later(scene)
    assert [each.points[0].step for each in told(scene, run).reports] == [4, 5, 6]


@pytest.mark.parametrize(
    "values",
    [
        {"loss": float("nan")},
        {"loss": float("inf")},
        {"a\nb": 1.0},
        {"x" * 65: 1.0},
        {f"m{n}": 1.0 for n in range(21)},
        {"loss": "high"},
    ],
)
def test_what_is_no_metric_is_no_message(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Point(step=1, steps=1, values=values)
