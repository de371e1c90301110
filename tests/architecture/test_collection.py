"""pytest finds what is there: a test module that cannot be imported is an error, and not left out in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_test_module_that_does_not_import_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "test_broken.py"
    broken.write_text('"""Broken."""\nfrom foedus import nothing_of_that_name\n\ndef test_it() -> None:\n    pass\n')
    command = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", broken]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "nothing_of_that_name" in done.stdout
    assert done.returncode == 2, done.stdout
