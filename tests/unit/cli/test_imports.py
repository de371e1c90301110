"""What a command loads: those that need no tensors start without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIGHT = [
    "foedus",
    "foedus.cli.main",
    "foedus.cli.run",
    "foedus.cli.model",
    "foedus.cli.simulate",
    "foedus.cli.coordinator",
    "foedus.cli.node",
    "foedus.cli.node_data",
    "foedus.node.service",
]


@pytest.mark.parametrize("module", LIGHT)
def test_a_command_without_tensors_starts_without_torch(module: str) -> None:
    code = f"import sys; sys.path.insert(0, 'src'); import {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "examples/digits/run.toml", "--kernel", "grph"],
        ["simulate", "examples/digits/run.toml", "--set", "rouns=3"],
        ["simulate", "nowhere.toml"],
        ["simulate", "examples/digits/run.toml", "--set", "data.name=digit"],
        ["simulate", "examples/digits/run.toml", "--sweep", "rounds"],
    ],
    ids=" ".join,
)
def test_a_typo_is_refused_before_torch_is_loaded(arguments: list[str]) -> None:
    code = f"import sys; from foedus.cli.main import execute; print(execute({arguments!r}), 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    exit_code, loaded = ran.stdout.split()
    assert int(exit_code) in (2, 3)
    assert loaded == "False"


def test_simulating_loads_no_matplotlib(tmp_path: Path) -> None:
    arguments = ["simulate", "examples/digits/run.toml", "--set", "rounds=1", "--out", str(tmp_path / "run")]
    code = (
        f"import sys; from foedus.cli.main import execute; print(execute({arguments!r}), 'matplotlib' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.split()[-2:] == ["0", "False"]
