"""The models that are averaged, and how a way to average them is judged; a peer's environment reads this as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODELS, TENSORS, ELEMENTS, FILES = 20, 50, 1_000_000, 4
"""Each of the ``FILES`` stands for several models, so that the disk need not hold all of them."""

WEIGHTS = tuple(float(20 + at) for at in range(MODELS))
SIZE = TENSORS * ELEMENTS * 4
"""The bytes of one model."""

Way = Callable[[Path], tuple[float, NDArray[np.float32]]]
"""``folder → (seconds, the mean of the first tensor)``."""


def file_of(folder: Path, at: int) -> Path:
    """The file of one model: its tensors fill the end. They are those of model 0, plus the number of the file."""
    return folder / f"update{at % FILES}"


def read(folder: Path, at: int, tensors: int = TENSORS) -> list[NDArray[np.float32]]:
    """The first tensors of one model."""
    with file_of(folder, at).open("rb") as file:
        file.seek(-SIZE, 2)
        return [np.fromfile(file, np.float32, ELEMENTS) for _ in range(tensors)]


def judge(way: Way, folder: Path) -> None:
    """Go a way, and print its rate in GB/s of models read, its peak in MiB and its largest error, as JSON.

    The peak is what the way needed beyond what the process had before.
    """
    before = _mib("VmRSS")
    seconds, first = way(folder)
    peak = _mib("VmHWM") - before
    shift = sum((at % FILES) * weight for at, weight in enumerate(WEIGHTS)) / sum(WEIGHTS)
    error = float(np.abs(first - (read(folder, 0, 1)[0].astype(np.float64) + shift)).max())
    print(json.dumps({"rate": MODELS * SIZE / 1e9 / seconds, "seconds": seconds, "peak": peak, "error": error}))


def _mib(name: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
