"""What a process has together with what it started is weighed, also where the kernel does not tell all."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus.sandbox import weigh
from foedus.sandbox.limits import PAGE


def test_where_its_own_part_cannot_be_read_all_that_is_resident_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel may have no smaps_rollup, or keep it from this user."""
    (tmp_path / "7" / "task" / "7").mkdir(parents=True)
    (tmp_path / "7" / "task" / "7" / "children").write_text("")
    (tmp_path / "7" / "statm").write_text("900 100 50 1 0 800 0")
    monkeypatch.setattr(weigh, "PROC", tmp_path)
    assert weigh.exceeds(7, 99 * PAGE)
    assert not weigh.exceeds(7, 100 * PAGE)
    (tmp_path / "7" / "smaps_rollup").write_text(f"Rss: {100 * PAGE >> 10} kB\nPss: {50 * PAGE >> 10} kB\n")
    assert not weigh.exceeds(7, 99 * PAGE), "what it shares counts in part"
    assert weigh.exceeds(7, 49 * PAGE)
