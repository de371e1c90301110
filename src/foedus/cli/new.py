"""``foedus new DIR``: a folder with a plan that runs, from templates in the package."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path

import click

from foedus.cli.output import emit, json_option
from foedus.domain.errors import ConflictError, StorageError

TEMPLATES: Mapping[str, str] = {"plan.py": "plan.py.txt", "run.toml": "run.toml", "README.md": "README.md"}
"""File → template in the package; the plan's ends in ``.txt`` so that nothing takes it for a module of foedus."""


def scaffold(folder: Path) -> list[Path]:
    """Write the templates into a folder that is empty or not there; returns the files.

    Raises:
        ConflictError: ``folder_in_use``.
        StorageError: ``folder_unwritable``.
    """
    templates = importlib.resources.files("foedus.cli") / "scaffold"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConflictError("folder_in_use", f"{folder} is not empty.", "", "Name a folder that is not there yet.")
        for name, template in TEMPLATES.items():
            (folder / name).write_bytes((templates / template).read_bytes())
    except OSError as error:
        why = error.strerror or ""
        raise StorageError(
            "folder_unwritable", f"{folder} cannot be written.", why, "Choose another folder."
        ) from error
    return [folder / name for name in TEMPLATES]


@click.command("new")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=True))
@json_option
def command(folder: Path) -> None:
    """Make DIR with a plan, a run.toml and a README that run as they are."""
    files = [str(path) for path in scaffold(folder)]
    lines = [*files, "", "Next:", f"  cd {folder} && foedus simulate run.toml"]
    emit({"folder": str(folder), "files": files, "next": "foedus simulate run.toml"}, "\n".join(lines))
