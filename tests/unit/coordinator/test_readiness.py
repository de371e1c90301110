"""F8: which of the nodes' datasets a run finds by its tags, and what becomes of two that one node offers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus.coordinator import nodes as node_cases
from foedus.coordinator import steering, submitting
from foedus.coordinator.readiness import ready
from foedus.coordinator.run_rows import find_run
from foedus.wire.messages import DatasetView, Hello, PlanApproval
from tests.unit.coordinator.scene import ADA, BOOT, PLAN, Scene, refusal


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.live.bells.close()
    made.live.store.close()


def offer(scene: Scene, node: str, **tags: tuple[str, ...]) -> None:
    """The node of a client tells that it offers these datasets."""
    datasets = tuple(DatasetView(client=client, tags=each, examples=100) for client, each in tags.items())
    approvals = (PlanApproval(digest=PLAN.digest, state="approved"),)
    with scene.live.store.transaction("hello") as tx:
        node_cases.hello(tx, scene.node_of[node], Hello(boot=BOOT, version="1", datasets=datasets, approvals=approvals))


def submit(scene: Scene, *, draft: bool = False) -> str:
    submission = submitting.prepare(scene.live.artifacts, scene.command(draft=draft))
    with scene.live.store.transaction("submit") as tx:
        return submitting.submit(tx, submission, ADA).id


def found(scene: Scene, run: str) -> set[str]:
    with scene.live.store.reading() as tx:
        return set(ready(tx, find_run(tx, run)))


def start(scene: Scene, run: str) -> None:
    with scene.live.store.transaction("steer") as tx:
        steering.start(tx, run)


def test_f8_a_run_finds_the_nodes_whose_dataset_has_all_of_its_tags(scene: Scene) -> None:
    scene.changes["data"] = {"name": "digits", "tags": ["digits", "blue"]}
    for client, tags in (("a", ("blue", "digits")), ("b", ("blue", "digits", "new")), ("c", ("digits",)), ("d", ())):
        scene.enrol(client, tags)
    offer(scene, "c", c=("digits", "red"), c2=("blue", "stays"))
    assert found(scene, submit(scene)) == {"a", "b"}, "the tags of two datasets do not add up"


def test_f8_two_matches_on_one_node_are_an_error_where_a_run_is_submitted_or_started(scene: Scene) -> None:
    scene.enrol("alpha")
    scene.enrol("beta")
    offer(scene, "beta", beta=("digits", "blue"), other=("digits", "red"), third=("stays",))
    caught = refusal(lambda: submit(scene))
    assert (caught.code, caught.http_status) == ("dataset_ambiguous", 409)
    assert "node-beta" in caught.what and "beta, other" in caught.what and "third" not in caught.what
    run = submit(scene, draft=True)
    assert refusal(lambda: start(scene, run)).code == "dataset_ambiguous"
    assert scene.show(run).status == "draft"
    offer(scene, "beta", beta=("digits", "blue"), third=("stays",))
    start(scene, run)
    assert found(scene, run) == {"alpha", "beta"}


def test_f8_two_matches_that_come_later_are_told_and_neither_is_asked(scene: Scene) -> None:
    scene.enrol("alpha")
    scene.enrol("beta")
    run = submit(scene)
    offer(scene, "beta", beta=("digits", "blue"), other=("digits", "red"))
    assert found(scene, run) == {"alpha"}
    shown = scene.show(run)
    assert {one.client: one.status for one in shown.clients}["beta"] == "ambiguous"
    assert "node-beta: its owner offers more than one dataset" in shown.waiting_for
    offer(scene, "beta", other=("digits", "red"))
    assert found(scene, run) == {"alpha", "other"}
