"""A dataset that a node's owner offers: a file of the owner's own, looked at when it is added. Needs torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from foedus.data.dataset import check_columns, count
from foedus.data.files import read_columns
from foedus.data.loading import load
from foedus.domain.errors import UsageError
from foedus.domain.names import check_name
from foedus.node.loadings import chosen as chosen_loading
from foedus.node.vault import Dataset, Vault

TAGS_LIMIT = 32


def add_dataset(home: Path, path: Path, name: str, tags: Sequence[str] = (), loading: str | None = None) -> Dataset:
    """Offer a file as the client ``name``. The file is read where it is whenever a run works; it is not copied.

    ``loading``: the loading plan that it is read by, the name of one that is kept here or a TOML file.

    Raises:
        ConfigError: ``name_refused``. ConflictError: ``dataset_exists``, ``loading_exists``. NotFoundError:
            ``loading_unknown``. UsageError: ``too_many_tags``.
        DataError: ``dataset_unreadable``, ``dataset_empty``, ``dataset_ragged``, ``dataset_not_finite`` …
    """
    check_name(name, "client")
    chosen = tuple(sorted({check_name(tag, "tag") for tag in tags}))
    if len(chosen) > TAGS_LIMIT:
        raise UsageError("too_many_tags", f"A dataset has at most {TAGS_LIMIT} tags.")
    place = path.expanduser().absolute()
    by = None if loading is None else chosen_loading(home, loading)
    with Vault(home) as vault:
        columns = read_columns(place) if by is None else load(by.plan, place)
        check_columns(columns)
        named = None if by is None else by.name
        dataset = Dataset(name, place, chosen, count(columns), tuple(sorted(columns)), time.time(), named)
        vault.add_dataset(dataset)
        return dataset
