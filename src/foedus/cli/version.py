"""``foedus version``: what is installed, for bug reports. Nothing is imported to find out."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from foedus import __version__
from foedus.cli.output import emit, json_option


@click.command("version")
@json_option
def command() -> None:
    """Print the versions of foedus, Python and torch, and the platform."""
    data = {
        "foedus": __version__,
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "platform": platform.platform(),
    }
    emit(data, "\n".join(f"{name:<10}{value}" for name, value in data.items()))
