"""What the commands on a coordinator's database and blobs have in common; each works beside one that is running."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from foedus.cli.output import say
from foedus.coordinator.settings import Settings, read_settings
from foedus.domain.errors import NotFoundError
from foedus.store.artifacts import Artifacts, open_artifacts
from foedus.store.unit_of_work import Store

TOLD = 20
"""How often progress is told where stderr is no terminal."""


@contextmanager
def opened(given: Mapping[str, Any], *, fresh: bool = False) -> Iterator[tuple[Settings, Store, Artifacts]]:
    """A coordinator's database and blobs; a ``fresh`` one is made.

    Raises:
        NotFoundError: ``coordinator_folder_missing``.
    """
    settings = read_settings(given)
    if fresh:
        settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    elif not settings.folder.is_dir():
        raise NotFoundError(
            "coordinator_folder_missing", f"There is no coordinator in {settings.folder}.", "", "Name its --folder."
        )
    store = Store(settings.database_url, migrate=fresh)
    try:
        yield settings, store, open_artifacts(settings.folder, settings.blobs, settings.blob_cache)
    finally:
        store.close()


def progress(what: str) -> Callable[[int, int], None]:
    """Tells people on stderr how many blobs are done."""

    def step(done: int, of: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{what} {done}/{of} blobs", err=True, nl=done == of)
        elif done == of or done % max(1, of // TOLD) == 0:
            say(f"{what} {done}/{of} blobs")

    return step
