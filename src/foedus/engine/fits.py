"""Whether a model fits this machine's memory: known, with numbers, before round 1, and not by the kernel's killer.

A simulation holds at least :data:`COPIES` of the model: the initial one, the current one, a client's, its update, and
the cohort's sum. While the plan builds its model, the process may take no more memory than there is.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foedus.domain.errors import ConfigError, PlanError
from foedus.domain.text import size
from foedus.domain.tree import Tensors, size_in_bytes

COPIES = 5
PLACES = ("memory.max", "memory.current")
CGROUP = Path("/sys/fs/cgroup")
MEMINFO, STATUS = Path("/proc/meminfo"), Path("/proc/self/status")


def available_bytes() -> int | None:
    """The memory that this process can still take, in bytes: the machine's, or its control group's if that is less."""
    free = _field(MEMINFO, "MemAvailable")
    limit, used = (_number(CGROUP / name) for name in PLACES)
    left = max(limit - used, 0) if limit is not None and used is not None else None
    known = [value for value in (free, left) if value is not None]
    return min(known) if known else None


def check_fits(model: Tensors, free: int | None) -> None:
    """Refuse a model of which a simulation could not hold what it must, with ``free`` bytes of memory (none: unknown).

    Raises:
        ConfigError: ``model_too_large``.
    """
    needed = size_in_bytes(model)
    if free is not None and needed * COPIES > free:
        raise ConfigError(
            "model_too_large",
            f"The model has {size(needed)}, and this machine has {size(free)} of memory left.",
            f"A simulation holds at least {COPIES} copies of it: {size(needed * COPIES)}.",
            "Use a smaller model, or a machine with more memory.",
        )


@contextmanager
def within_memory() -> Iterator[None]:
    """Have what asks for more memory than there is fail, where it would else be granted and end the process later.

    Raises:
        ConfigError: ``model_too_large`` where a plan's model() did so.
    """
    free, used = available_bytes(), _field(STATUS, "VmData")
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bounded = free is not None and used is not None and soft == resource.RLIM_INFINITY
    if bounded and free is not None and used is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (free + used, hard))
    try:
        yield
    except PlanError as error:
        words = f"{error.why}"
        if isinstance(error.__cause__, MemoryError) or "can't allocate memory" in words:
            left = f" This machine has {size(free)} of memory left." if free is not None else ""
            raise ConfigError(
                "model_too_large",
                "The plan's model does not fit into memory.",
                left.strip(),
                "Use a smaller model, or a machine with more memory.",
            ) from error
        raise
    finally:
        if bounded:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _field(path: Path, name: str) -> int | None:
    """A row ``Name:  123 kB`` of a file of the kernel's, in bytes."""
    try:
        rows = (line.partition(":") for line in path.read_text().splitlines())
        return next((int(value.split()[0]) * 1024 for key, _, value in rows if key == name), None)
    except (OSError, ValueError, IndexError):
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
