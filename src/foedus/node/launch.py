"""How a work process is started: its program, its environment, and the bounds of all that it starts together."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import foedus
from foedus.node.gpus import shown
from foedus.node.policy import Resources
from foedus.node.staging import Stage
from foedus.sandbox.bubblewrap import PRIVATE, Sandbox, command
from foedus.sandbox.groups import Group, group

BEFORE = 512 << 20
"""Bytes that Python and its libraries have before there is any work."""

BUFFER = 4 << 20
"""Bytes of a pipe's that wait here to be read: an update is as large as the model."""

AROUND = 8
"""Processes of the sandbox's own."""

HANDED_ON = ("PATH", "HOME", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT")
HANDED_ON_PREFIXES = ("ATEN_", "DNNL_", "KMP_", "LANG", "LC_", "MKL_", "ONEDNN_", "OPENBLAS_", "PYTHON", "TORCH_")


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a work process may see of the environment: how to run and compute, and no secrets. One thread.

    >>> clean_environment({"PATH": "/bin", "API_KEY": "secret"})
    {'PATH': '/bin', 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    """
    kept = {k: v for k, v in environment.items() if k in HANDED_ON or k.startswith(HANDED_ON_PREFIXES)}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def environment() -> dict[str, str]:
    """The environment of a process of this node's, which may start in any folder."""
    # The process starts in another folder: where modules are found must not depend on it.
    paths = [str(Path(foedus.__file__).parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**clean_environment(os.environ), "PYTHONPATH": os.pathsep.join(str(Path(p).absolute()) for p in paths)}


def bounds(stage: Stage, took: Resources) -> Group | None:
    """The kernel's bounds on all that a held work process starts, where they can be had."""
    limits = took.limits
    return group(stage.folder.name, BEFORE + limits.memory, AROUND + limits.processes) if stage.inside else None


async def launch(stage: Stage, took: Resources, bound: Group | None) -> Process:
    """Start it; ``bound`` are its :func:`bounds`.

    Raises:
        StorageError: ``sandbox_unavailable``.
    """
    words = _command(stage, took)
    return await asyncio.create_subprocess_exec(
        *(words if bound is None else bound.entered(words)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=stage.folder.parent,
        env={} if stage.inside else {**environment(), **shown(took)},
        start_new_session=True,
        limit=BUFFER,
    )


def _command(stage: Stage, took: Resources) -> list[str]:
    """The work process: in a sandbox with its limits, or without one."""
    python = [sys.executable, "-P", "-m"]
    if not stage.inside:
        return [*python, "foedus.node.child"]
    inside = {"HOME": str(PRIVATE), "TMPDIR": str(PRIVATE), "PATH": "/usr/bin:/bin", **shown(took)}
    sandbox = Sandbox(stage.shown, took.limits, {**environment(), **inside})
    return command(sandbox, [*python, "foedus.sandbox.enter", "foedus.node.child", json.dumps(asdict(took.limits))])
