"""A dataset that a node's owner offers: a file of the owner's own, looked at when it is added. Needs torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from foedus.data.dataset import check_columns, count
from foedus.data.files import read_columns
from foedus.domain.errors import UsageError
from foedus.domain.names import check_name
from foedus.node.vault import Dataset, Vault

TAGS_LIMIT = 32


def add_dataset(home: Path, path: Path, name: str, tags: Sequence[str] = ()) -> Dataset:
    """Offer a file as the client ``name``. The file is read where it is whenever a run works; it is not copied.

    Raises:
        ConfigError: ``name_refused``. ConflictError: ``dataset_exists``. UsageError: ``too_many_tags``.
        DataError: ``dataset_unreadable``, ``dataset_empty``, ``dataset_ragged``, ``dataset_not_finite`` …
    """
    check_name(name, "client")
    chosen = tuple(sorted({check_name(tag, "tag") for tag in tags}))
    if len(chosen) > TAGS_LIMIT:
        raise UsageError("too_many_tags", f"A dataset has at most {TAGS_LIMIT} tags.")
    with Vault(home) as vault:
        place = path.expanduser().absolute()
        columns = read_columns(place)
        check_columns(columns)
        dataset = Dataset(name, place, chosen, count(columns), tuple(sorted(columns)), time.time())
        vault.add_dataset(dataset)
        return dataset
