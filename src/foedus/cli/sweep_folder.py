"""A sweep as its folder has it: what is swept, over which run.toml and plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from foedus.domain.errors import ConflictError, IntegrityError, PlanError
from foedus.engine.folder import choose_folder
from foedus.engine.json_text import to_json
from foedus.engine.prepare import prepare, read_spec
from foedus.engine.results import run_name
from foedus.engine.sweep import Planned, planned

SWEEP, LIMIT = "sweep.json", 64 << 20


@dataclass(frozen=True)
class Sweep:
    """What is swept: ``options`` and ``seeds``, over run.toml with ``overrides``, by ``kernel``.

    ``plan`` is the plan's digest; ``directions`` say of each metric whether ``max`` or ``min`` is better.
    """

    name: str
    run_toml: str
    kernel: str
    overrides: dict[str, str]
    options: dict[str, list[str]]
    seeds: list[int]
    plan: str
    directions: dict[str, str]

    @property
    def runs(self) -> list[Planned]:
        """Every run, in order."""
        return planned(self.options, self.seeds)


def begin_sweep(
    run_toml: Path, overrides: Mapping[str, str], options: dict[str, list[str]], seeds: int, kernel: str
) -> Sweep:
    """The sweep, with every run's table checked, and the plan imported once.

    Raises:
        ConfigError, PlanError: where any run could not begin.
    """
    first = prepare(run_toml, overrides)
    numbers = [first.spec.seed + at for at in range(seeds)]
    name = run_name(first.spec, run_toml)
    path = run_toml / "run.toml" if run_toml.is_dir() else run_toml
    directions = dict(first.manifest.metrics)
    digest, where = first.bundle.digest, str(path.resolve())
    sweep = Sweep(name, where, kernel, dict(overrides), options, numbers, digest, directions)
    for run in sweep.runs[:: len(numbers)]:
        read_spec(path, {**overrides, **run.overrides})
    return sweep


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (folder / SWEEP).is_file()


def sweep_folder(sweep: Sweep, out: Path | None) -> Path:
    """A new folder for a sweep.

    Raises:
        ConflictError: ``sweep_exists``; and as for a run.
    """
    if out and is_sweep(out):
        raise ConflictError(
            "sweep_exists",
            f"{out} holds a sweep already.",
            "",
            f"Go on with it (`foedus simulate --resume {out}`), or name another folder.",
        )
    folder = choose_folder(out, f"{sweep.name}-sweep", datetime.now(UTC))
    (folder / SWEEP).write_text(to_json({"sweep": vars(sweep)}, indent=2) + "\n")
    return folder


def read_sweep(folder: Path) -> Sweep:
    """The sweep that a folder was made for.

    Raises:
        IntegrityError: ``sweep_malformed``.
        PlanError: ``plan_changed``.
    """
    try:
        with (folder / SWEEP).open("rb") as file:
            sweep = TypeAdapter(Sweep).validate_python(json.loads(file.read(LIMIT))["sweep"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            "sweep_malformed", f"{folder / SWEEP} is not what foedus wrote.", "", "Begin the sweep anew."
        ) from error
    if prepare(Path(sweep.run_toml), sweep.overrides).bundle.digest != sweep.plan:
        raise PlanError(
            "plan_changed",
            f"The plan of {sweep.run_toml} is not the one that the sweep was begun with.",
            "Its runs could not be compared with those that are done.",
            "Restore it, or begin another sweep.",
        )
    return sweep
