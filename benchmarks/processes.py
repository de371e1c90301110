"""One runner in a fresh process: how long it took, the most memory that it and its children had, and what it said."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
LOOK = 0.25
"""Seconds between two looks at a runner's memory, which take some of its time."""
LIMIT = 900.0
"""Seconds after which a runner is given up."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Measured:
    """``began`` is on the clock that all processes share, ``wall`` in seconds, ``peak`` in MiB.

    ``said`` is the JSON in the last line that was printed; ``failure`` says why there is none.
    """

    began: float
    wall: float
    peak: float
    said: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None, look: float = LOOK) -> Measured:
    """Run a command at the root of the repository, one thread per process unless ``environment`` says otherwise.

    ``look``: seconds between two looks at its memory.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began, start, peak = time.time(), time.perf_counter(), 0.0
        with subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        ) as process:
            watched = psutil.Process(process.pid)
            while not _ended(process, look):
                peak = max(peak, memory(watched))
                if time.perf_counter() - start > LIMIT:
                    _end(watched)
            wall = time.perf_counter() - start
        lines = _lines(out)
        if process.returncode or not lines:
            return Measured(began, wall, peak, failure=_last_words(_lines(err), process.returncode))
        return Measured(began, wall, peak, json.loads(lines[-1]))


def memory(process: psutil.Process) -> float:
    """MiB of a process and its children; what they share counts once."""
    total = 0.0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_full_info().pss
    except psutil.Error:
        return 0.0
    return total / 2**20


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: psutil.Process) -> None:
    for each in (*process.children(recursive=True), process):
        try:
            each.kill()
        except psutil.Error:
            continue


def _lines(file: Any) -> list[str]:
    file.seek(0)
    return [line for line in file.read().splitlines() if line.strip()]


def _last_words(lines: list[str], code: int) -> str:
    """The last line that names an error, else the last one with a word in it."""
    worded = [line.strip() for line in lines if any(letter.isalpha() for letter in line)]
    errors = [line for line in worded if "Error" in line]
    return (errors or worded or [f"ended with {code} and said nothing"])[-1][:200]
