"""``foedus new DIR``: a folder with a plan that runs, from templates in the package."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path

import click

from foedus.cli.output import emit, json_option
from foedus.domain.errors import ConflictError, StorageError

TEMPLATES: Mapping[str, Mapping[str, str]] = {
    "model": {"plan.py": "plan.py.txt", "run.toml": "run.toml", "README.md": "README.md"},
    "function": {
        "plan.py": "function/plan.py.txt",
        **{name: f"function/{name}" for name in ("options.json", "run.toml", "README.md")},
    },
    "command": {
        name: f"command/{name}"
        for name in ("plan/plan.json", "plan/work.sh", "plan/options.json", "run.toml", "README.md")
    },
}
"""Kind of plan → file → template in the package; Python's end in ``.txt``, so that nothing takes them for modules."""


def scaffold(folder: Path, kind: str = "model") -> list[Path]:
    """Write the templates of a kind of plan into a folder that is empty or not there; returns the files.

    Raises:
        ConflictError: ``folder_in_use``.
        StorageError: ``folder_unwritable``.
    """
    templates = importlib.resources.files("foedus.cli") / "scaffold"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConflictError("folder_in_use", f"{folder} is not empty.", "", "Name a folder that is not there yet.")
        for name, template in TEMPLATES[kind].items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes((templates / template).read_bytes())
    except OSError as error:
        why = error.strerror or ""
        raise StorageError(
            "folder_unwritable", f"{folder} cannot be written.", why, "Choose another folder."
        ) from error
    return [folder / name for name in TEMPLATES[kind]]


@click.command("new")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=True))
@click.option(
    "--kind",
    type=click.Choice([*TEMPLATES]),
    default="model",
    show_default=True,
    help="A PyTorch model and its loss; functions over arrays (scikit-learn); or a command in any language.",
)
@json_option
def command(folder: Path, kind: str) -> None:
    """Make DIR with a plan, a run.toml and a README that run as they are."""
    files = [str(path) for path in scaffold(folder, kind)]
    lines = [*files, "", "Next:", f"  cd {folder} && foedus simulate run.toml"]
    emit({"folder": str(folder), "files": files, "next": "foedus simulate run.toml"}, "\n".join(lines))
