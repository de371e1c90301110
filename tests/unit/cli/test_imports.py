"""What a command loads: those that need no tensors start without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = ["foedus.cli.main", "foedus.cli.run", "foedus.cli.coordinator", "foedus.cli.node", "foedus.node.agent"]


@pytest.mark.parametrize("module", LIGHT)
def test_a_command_without_tensors_starts_without_torch(module: str) -> None:
    code = f"import sys; sys.path.insert(0, 'src'); import {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.strip() == "False"
