"""``foedus run compare`` and ``foedus run plot``: on folders that runs left."""

from __future__ import annotations

from pathlib import Path

import pytest

import foedus

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "run.toml"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    for name, overrides in {"slow": {"strategy.local.lr": 0.01}, "fast": {}, "same": {}}.items():
        foedus.simulate(
            DIGITS, {"rounds": 3, **overrides}, out=base / name, kernel="eager", executor="inline", progress=False
        )
    return base


def test_runs_are_compared_by_their_folders(run, folders: Path) -> None:
    found = run("run", "compare", folders / "slow", folders / "fast", "--json").envelope["data"]
    assert [each["run"] for each in found["runs"]] == ["slow", "fast"]
    assert found["differs"] == {"strategy.local.lr": [0.01, 0.1]}
    assert found["goal"]["metric"] == "test/accuracy"
    assert found["goal"]["more"]
    assert not found["same_model"]
    assert run("run", "compare", folders / "same", folders / "fast", "--json").envelope["data"]["same_model"]


def test_the_table_is_for_people(run, folders: Path) -> None:
    ran = run("run", "compare", folders / "slow", folders / "fast", "--goal", "test/loss=2.2")
    assert ran.code == 0
    assert "rounds to test/loss ≤ 2.2000" in ran.out
    assert "strategy.local.lr  0.01  0.1" in ran.out
    assert "The models differ." in ran.out


def test_a_page_is_written_where_it_is_asked_for(run, folders: Path, tmp_path: Path) -> None:
    ran = run("run", "compare", folders / "slow", folders / "fast", "--html", tmp_path / "page.html", "--json")
    assert ran.code == 0
    assert "test/accuracy per round" in (tmp_path / "page.html").read_text()


def test_what_cannot_be_compared_is_refused(run, folders: Path, tmp_path: Path) -> None:
    alone = run("run", "compare", folders / "fast", "--json")
    assert (alone.code, alone.envelope["error"]["code"]) == (2, "one_run")
    missing = run("run", "compare", folders / "fast", tmp_path, "--json")
    assert (missing.code, missing.envelope["error"]["code"]) == (6, "run_folder_missing")
    goal = run("run", "compare", folders / "fast", folders / "slow", "--goal", "0.9x", "--json")
    assert (goal.code, goal.envelope["error"]["code"]) == (2, "goal_malformed")
    page = run("run", "compare", folders / "fast", folders / "slow", "--html", tmp_path / "no" / "page.html", "--json")
    assert (page.code, page.envelope["error"]["code"]) == (11, "file_unwritable")


def test_curves_are_drawn_when_they_are_wanted(run, folders: Path, tmp_path: Path) -> None:
    assert not (folders / "fast" / "curves.png").exists()
    assert run("run", "plot", folders / "fast").out.strip() == str(folders / "fast" / "curves.png")
    assert (folders / "fast" / "curves.png").read_bytes().startswith(b"\x89PNG")
    data = run("run", "plot", folders / "slow", "--out", tmp_path / "a.png", "--json").envelope["data"]
    assert data["bytes"] == (tmp_path / "a.png").stat().st_size
