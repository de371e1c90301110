"""Saved models on a node: names that a run chose become no path, and what the work says is checked."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from foedus.domain.errors import ConflictError, ForbiddenError, IntegrityError, NotFoundError, StorageError
from foedus.node.frames import Done, Model
from foedus.node.policy import Policy, Request, Resources, check
from foedus.node.saved import SavedModels, saved_folder
from foedus.wire.messages import Assignment
from tests.unit.node.support import assignment, bundle_of

ASKED = ({"when": "pre", "keep": "best"}, {"when": "post"}, {"when": "pre", "name": "pre.latest"})


def ask(**changed: object) -> Assignment:
    return assignment(bundle_of(), checkpointers=ASKED, **changed)


def done(*models: Model) -> Done:
    return Done(weights={}, metrics={}, seconds=1.0, update=0, state=0, models=models)


def model(when: str, content: bytes, folder: Path, number: int = 1, **scores: float | None) -> Model:
    (folder / when).write_bytes(content)
    named = {name.replace("_", "-"): score for name, score in scores.items()}
    return Model.model_validate({"when": when, "round": number, "size": len(content), "scores": named})


@pytest.fixture
def kept(tmp_path: Path) -> SavedModels:
    (tmp_path / "saved").mkdir()
    return SavedModels(tmp_path / "saved")


def test_models_are_kept_by_hashes_and_found_by_ids_that_no_run_chose(kept: SavedModels, tmp_path: Path) -> None:
    kept.keep(ask(), done(model("pre", b"one", tmp_path, pre_best_loss=0.5)), tmp_path)
    kept.keep(ask(), done(model("post", b"two", tmp_path, 2, post_latest=None)), tmp_path)
    kept.keep(ask(run="r_2"), done(model("pre", b"three", tmp_path, 3, pre_best_loss=0.1)), tmp_path)
    assert kept.scores(ask()) == {"pre-best-loss": 0.5, "post-latest": None}
    assert kept.scores(ask(run="r_2")) == {"pre-best-loss": 0.1} and kept.scores(ask(client="c0001")) == {}
    assert {place.model().read_bytes() for place in kept.all()} == {b"one", b"two", b"three"}
    paths = [str(path.relative_to(tmp_path / "saved")) for path in (tmp_path / "saved").rglob("*")]
    assert not [path for path in paths if any(name in path for name in ("r_1", "c0000", "best", "latest"))]
    first = kept.all()[0]
    assert kept.find(first.id[:8]) == first
    with pytest.raises(NotFoundError):
        kept.find("nothing")
    with pytest.raises(ConflictError):
        kept.find("")


def test_a_model_that_no_checkpointer_asked_for_is_refused(kept: SavedModels, tmp_path: Path) -> None:
    for wrong in (model("pre", b"x", tmp_path, other=0.1), model("post", b"x", tmp_path, pre_best_loss=0.1)):
        with pytest.raises(IntegrityError) as caught:
            kept.keep(ask(), done(wrong), tmp_path)
        assert caught.value.code == "saved_refused"
    assert kept.all() == []


def test_h6_where_nothing_is_kept_the_checkpointer_begins_anew(kept: SavedModels, tmp_path: Path) -> None:
    """H6: no file is a fresh start; a record that is none is told, and the next model is kept."""
    assert kept.scores(ask()) == {} and kept.all() == []
    kept.keep(ask(), done(model("pre", b"one", tmp_path, pre_best_loss=0.5)), tmp_path)
    place = kept.all()[0]
    (place.folder / f"{place.stem}.json").write_text("{}")
    assert kept.scores(ask()) == {}
    kept.keep(ask(), done(model("pre", b"two", tmp_path, pre_best_loss=0.9)), tmp_path)
    assert kept.scores(ask()) == {"pre-best-loss": 0.9} and kept.all()[0].model().read_bytes() == b"two"


def test_h1_the_folder_is_checked_when_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        SavedModels(saved_folder(tmp_path, str(tmp_path / "absent")))
    assert caught.value.code == "saved_folder_unusable"
    assert SavedModels(saved_folder(tmp_path, "")).all() == []


def test_a_record_that_was_torn_hides_no_other(kept: SavedModels, tmp_path: Path) -> None:
    for run in ("r_1", "r_2"):
        kept.keep(ask(run=run), done(model("post", b"m", tmp_path, post_latest=None)), tmp_path)
    first, second = kept.all()
    (first.folder / f"{first.stem}.json").write_text("{")
    assert kept.all() == [second]
    assert kept.find(second.id) == second


def test_old_models_go_and_what_else_an_owner_has_there_stays(kept: SavedModels, tmp_path: Path) -> None:
    kept.keep(ask(), done(model("pre", b"one", tmp_path, pre_best_loss=0.5)), tmp_path)
    other = tmp_path / "saved" / "family"
    other.mkdir()
    for path in [*(tmp_path / "saved").rglob("*")]:
        os.utime(path, (1, 1))
    kept.forget(3600)
    assert kept.all() == [] and list((tmp_path / "saved").iterdir()) == [other]


def test_a_policy_says_how_many_models_a_run_may_keep() -> None:
    now, request = datetime(2026, 1, 1), Request("fedavg", {}, 1, 10, 2, (), 3)
    check(Policy(), request, now)
    check(Policy(resources=Resources(saved=3)), request, now)
    with pytest.raises(ForbiddenError) as caught:
        check(Policy(resources=Resources(saved=0)), request, now)
    assert caught.value.code == "policy_refused" and "resources.saved" in caught.value.what
