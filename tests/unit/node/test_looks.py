"""Whether the bytes of a file or folder may be others is seen without reading them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foedus.domain.errors import DataError
from foedus.node.looks import digest_of, look


def moved() -> None:
    """Nobody counts."""


@pytest.fixture(params=["file", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "file":
        (tmp_path / "x.csv").write_text("a\n1\n")
        return tmp_path / "x.csv"
    (tmp_path / "scans" / "s1").mkdir(parents=True)
    (tmp_path / "scans" / "x.csv").write_text("a\n1\n")
    return tmp_path / "scans"


def _file(place: Path) -> Path:
    return place / "x.csv" if place.is_dir() else place


def test_an_edit_of_the_same_length_at_the_same_time_is_seen(place: Path) -> None:
    seen, digest, times = look(place), digest_of(place, moved), _file(place).stat()
    assert look(place) == seen
    with _file(place).open("r+") as file:
        file.write("b")
    os.utime(_file(place), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert _file(place).stat().st_mtime_ns == times.st_mtime_ns
    assert look(place) != seen and digest_of(place, moved) != digest


def test_other_times_alone_are_other_looks_at_the_same_bytes(place: Path) -> None:
    seen, digest = look(place), digest_of(place, moved)
    os.utime(_file(place), (1, 1))
    assert look(place) != seen and digest_of(place, moved) == digest


def test_a_folder_is_its_names_and_files(tmp_path: Path) -> None:
    (tmp_path / "scans" / "s1").mkdir(parents=True)
    (tmp_path / "scans" / "s1" / "a").write_text("1")
    seen, digest = look(tmp_path / "scans"), digest_of(tmp_path / "scans", moved)
    (tmp_path / "scans" / "__pycache__").mkdir()
    (tmp_path / "scans" / "__pycache__" / "loader.pyc").write_text("1")
    assert (look(tmp_path / "scans"), digest_of(tmp_path / "scans", moved)) == (seen, digest), "Python's own"
    (tmp_path / "scans" / "s1" / "a").rename(tmp_path / "scans" / "s1" / "b")
    assert look(tmp_path / "scans") != seen and digest_of(tmp_path / "scans", moved) != digest


def test_what_is_not_there_is_refused_without_its_path(tmp_path: Path) -> None:
    for see in (look, lambda place: digest_of(place, moved)):
        with pytest.raises(DataError) as caught:
            see(tmp_path / "gone.csv")
        assert caught.value.code == "dataset_unreadable" and str(tmp_path) not in str(caught.value)
        assert "setfacl" in caught.value.fix
