"""Processes of the node's own that read its owner's data: the agent has no torch, and a loader of the owner's may die.

Such a program is a module here, called as ``python -m MODULE HOME WORD``. It is the owner's, as ``foedus node data
add`` is: no plan has a word in it. Free of torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from foedus.domain.errors import DataError, FoedusError
from foedus.node.launch import environment

PULSE = 1.0
"""Seconds between two words that the owner's data are still being read."""

LONGEST = 3600.0
"""Seconds that reading them may take."""

REFUSED = 3
"""How such a process ends where it says why it cannot."""


def read_apart(module: str, home: Path, word: str, moved: Callable[[], None]) -> str:
    """The last line that the program says. ``moved`` is called while it works; if that raises, the program is ended.

    Raises:
        DataError: what the program refused; ``dataset_unreadable`` where it took too long, or died.
    """
    words = [sys.executable, "-P", "-m", module, str(home), word]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment()) as process:
        until = time.monotonic() + LONGEST
        try:
            while True:
                try:
                    said, _ = process.communicate(timeout=PULSE)
                    break
                except subprocess.TimeoutExpired:
                    moved()
                    if time.monotonic() > until:
                        _failed([])
        finally:
            process.kill()
    lines = said.decode(errors="replace").splitlines()
    if process.returncode:
        _failed(json.loads(lines[-1]) if process.returncode == REFUSED and lines else [])
    return lines[-1] if lines else ""


@contextmanager
def refusals() -> Iterator[None]:
    """In such a program: what is refused is its last line."""
    try:
        yield
    except FoedusError as error:
        print(json.dumps([error.code, error.what, error.why, error.fix]))
        sys.exit(REFUSED)


def _failed(told: list[str]) -> NoReturn:
    """Fail as the process told; or because it told nothing."""
    if told:
        raise DataError(told[0], told[1], *told[2:])
    why = "Reading it took too long, or ended the process that did."
    raise DataError("dataset_unreadable", "The dataset cannot be read any more.", why)
