"""What who has the coordinator's folder can do without a token: get one. It needs the database, not the service."""

from __future__ import annotations

from pathlib import Path

from foedus.coordinator.settings import read_settings
from foedus.coordinator.tokens import recover_admin
from foedus.domain.errors import NotFoundError
from foedus.store.unit_of_work import Store
from foedus.wire.people import Token


def recover(folder: Path | None) -> Token:
    """A token for the first admin of the coordinator in ``folder``; it may be running meanwhile.

    Raises:
        NotFoundError: ``coordinator_folder_missing``, ``admin_missing``.
    """
    settings = read_settings({"folder": folder})
    if not settings.folder.is_dir():
        raise NotFoundError(
            "coordinator_folder_missing", f"There is no coordinator in {settings.folder}.", "", "Name its --folder."
        )
    store = Store(settings.database_url)
    try:
        with store.transaction("recover_admin") as tx:
            return recover_admin(tx)
    finally:
        store.close()
