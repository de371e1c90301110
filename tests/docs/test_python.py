"""The reference of the Python API runs from top to bottom, and names everything that is public."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import foedus

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "python.md").read_text()


def test_every_block_of_the_reference_runs(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="the extra `notebook` is not installed")
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)))
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MPLBACKEND": "agg"}
    ran = subprocess.run([sys.executable, script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_every_public_name_is_documented() -> None:
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))
    documented = set(re.findall(r"`foedus\.(\w+)`", headings))
    assert documented == set(foedus.__all__) - {"__version__"}
