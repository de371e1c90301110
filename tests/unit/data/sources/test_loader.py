"""An owner's own class reads a folder as it likes; what it gives is checked like any file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from foedus.data.catalogue import read_owned
from foedus.data.owned import Reading
from foedus.domain.errors import DataError

GOOD = """
import numpy as np

class Loader:
    def __init__(self, folder):
        self.folder = folder

    def columns(self):
        rows = [line.split() for line in (self.folder / "notes.txt").read_text().splitlines()]
        return {"y": np.array([int(row[1]) for row in rows]), "x": np.array([float(row[0]) for row in rows])}
"""


def _folder(folder: Path, text: str) -> Path:
    (folder / "loader.py").write_text(text)
    (folder / "notes.txt").write_text("0.5 1\n1.5 0\n")
    return folder


def test_a_folder_with_a_loader_is_read_by_it_and_nothing_is_written(tmp_path: Path) -> None:
    columns = read_owned(Reading(kind="loader"), _folder(tmp_path, GOOD))
    assert {name: column.tolist() for name, column in columns.items()} == {"x": [0.5, 1.5], "y": [1, 0]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loader.py", "notes.txt"]


def test_a_loader_runs_where_its_owner_says_so_and_never_by_itself(tmp_path: Path) -> None:
    """A folder from elsewhere may hold a file of that name."""
    (tmp_path / "cat").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "cat" / "1.png")
    _folder(tmp_path, "raise SystemExit(3)")
    assert sorted(read_owned(Reading(), tmp_path)) == ["image", "label"]


BODY = "class Loader:\n    def __init__(self, folder): pass\n    def columns(self):\n        "


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("def broken(:\n", "loader_failed", "SyntaxError"),
        (f"{BODY}raise ValueError('Smith, 44')", "loader_failed", "ValueError, line 4"),
        (f"{BODY}return [1, 2]", "loader_refused", "no dict"),
        (f"{BODY}return {{'x': [1.0, 2.0]}}", "loader_refused", "`x`"),
        (f"{BODY}return {{'x': __import__('numpy').array(['Smith'])}}", "loader_refused", "`x`"),
        ("class Reader: pass", "loader_refused", "no dict"),
    ],
)
def test_a_loader_that_fails_or_gives_something_else_is_refused(
    tmp_path: Path, text: str, code: str, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_owned(Reading(kind="loader"), _folder(tmp_path, text))
    assert caught.value.code == code and says in str(caught.value)
    assert "Smith" not in str(caught.value) and str(tmp_path) not in str(caught.value)
