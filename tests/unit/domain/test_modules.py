"""A module is loaded once, and garbage is looked for again afterwards."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from foedus.domain.modules import load


@pytest.mark.parametrize("body", ["", "raise ValueError"])
def test_garbage_is_looked_for_again_whether_it_can_be_imported_or_not(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loaded_here.py").write_text(f"import gc\nlooking = gc.isenabled()\n{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loaded_here", raising=False)
    if body:
        with pytest.raises(ValueError):
            load("loaded_here")
    else:
        assert not load("loaded_here").looking
    assert gc.isenabled()


def test_what_is_known_already_is_given_back_and_nothing_is_kept_from_the_collector() -> None:
    load("foedus.domain.errors")
    before = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    assert load("foedus.domain.errors") is sys.modules["foedus.domain.errors"]
    assert gc.get_freeze_count() <= before, "what was kept before may have gone meanwhile; nothing came to it"
    looked_at = {id(each) for each in gc.get_objects()}
    assert looked_at.issuperset(map(id, kept))
