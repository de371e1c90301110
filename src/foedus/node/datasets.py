"""A dataset that a node's owner offers: read when it is added, and when it was edited since. Needs torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from foedus.data.align import draft_rows
from foedus.data.dataset import check_columns, count
from foedus.data.loading import Rows
from foedus.data.loading_plan import LoadingPlan
from foedus.data.owned import Reading, check_minimum
from foedus.data.reading import columns_of, kind_read, text_of
from foedus.data.statistics import summary
from foedus.domain.errors import DataError, UsageError
from foedus.domain.names import check_name
from foedus.domain.table import validate
from foedus.node import tables
from foedus.node.loadings import chosen as chosen_loading
from foedus.node.loadings import loading_of
from foedus.node.noticing import Changed, keep, see
from foedus.node.schemas import unaligned
from foedus.node.security import Fact
from foedus.node.vault import Dataset, Vault

TAGS_LIMIT, DESCRIPTION_LIMIT = 32, 500
TEXTS = ("text", "number")
"""What columns of a table with texts are, in place of dtypes."""


@dataclass(frozen=True)
class Terms:
    """What an owner says of a dataset. ``kind`` (empty: by its path) and the kind's ``options``; the rest is optional.

    ``loading``: the loading plan that it is read by, the name of one that is kept here or a TOML file. ``minimum``: the
    fewest examples that a run may train on. ``texts``: it is a table with texts or missing cells, for runs that align
    tables; no loading plan reads it.
    """

    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    loading: str | None = None
    description: str = ""
    minimum: int = 1
    texts: bool = False


@dataclass(frozen=True)
class _Found:
    """What a dataset was, when it was read."""

    examples: int
    columns: tuple[str, ...]
    summary: tuple[dict[str, Any], ...]


def add_dataset(home: Path, path: Path, name: str, tags: Sequence[str] = (), terms: Terms = Terms()) -> Dataset:
    """Offer a file or folder as the client ``name``. It is read where it is whenever a run works.

    Raises:
        ConfigError: ``name_refused``, ``config_refused``, ``dataset_unknown``, ``align_refused``.
        ConflictError: ``dataset_exists``, ``tags_overlap``, ``loading_exists``. NotFoundError: ``loading_unknown``.
        UsageError: ``too_many_tags``, ``description_refused``.
        DataError: ``dataset_unreadable``, ``dataset_empty``, ``dataset_ragged``, ``dataset_not_finite``,
            ``too_few_examples`` …
    """
    check_name(name, "client")
    chosen = tuple(sorted({check_name(tag, "tag") for tag in tags}))
    if len(chosen) > TAGS_LIMIT:
        raise UsageError("too_many_tags", f"A dataset has at most {TAGS_LIMIT} tags.")
    if len(terms.description) > DESCRIPTION_LIMIT or not terms.description.isprintable():
        raise UsageError("description_refused", f"A description is one line of at most {DESCRIPTION_LIMIT} characters.")
    place = path.expanduser().absolute()
    by = None if terms.loading is None else chosen_loading(home, terms.loading)
    seen = see(place) if place.exists() else None
    said = {"kind": terms.kind, "options": dict(terms.options), "minimum": terms.minimum}
    reading = validate(Reading, said, "The dataset")
    with Vault(home) as vault:
        plan = None if by is None else by.plan
        kind = kind_read(reading, plan, place)
        found = _texts(reading, place) if terms.texts and plan is None else _numbers(reading, plan, place)
        dataset = Dataset(
            client=name,
            path=place,
            tags=chosen,
            examples=found.examples,
            columns=found.columns,
            added_at=time.time(),
            loading=None if by is None else by.name,
            kind=kind,
            options=reading.options,
            description=terms.description,
            minimum=terms.minimum,
            summary=found.summary,
        )
        vault.add_dataset(dataset)
        if seen is not None and kind != "sql":  # of a query, the rows are looked at, when a run begins
            with vault.transaction("node_dataset") as db:
                keep(db, name, seen)
        return dataset


def restate(home: Path, changed: Changed) -> None:
    """Read a dataset again whose bytes are not those of before, and record what it is now.

    Raises:
        DataError: as :func:`add_dataset`.
    """
    with Vault(home) as vault:
        dataset = next((each for each in vault.datasets() if each.client == changed.client), None)
        if dataset is None:
            return
        by = loading_of(vault, dataset)
        reading = dataset.reading.model_copy(update={"kind": changed.kind})
        place, texts = Path(changed.place), any(each.get("dtype") in TEXTS for each in dataset.summary)
        new = vars(_texts(reading, place) if texts else _numbers(reading, None if by is None else by.plan, place))
        with vault.transaction("node_dataset") as db:
            mine = tables.looks.c.client == dataset.client
            if db.execute(select(tables.looks.c.digest).where(mine)).scalar() == changed.seen.digest:
                return  # of an ask that was let go, the reading went on
            here = (tables.datasets.c.client == dataset.client, tables.datasets.c.added_at == dataset.added_at)
            db.execute(update(tables.datasets).where(*here).values(**new))
            keep(db, dataset.client, changed.seen)
            if changed.before or any(getattr(dataset, name) != value for name, value in new.items()):
                words = f"edited since: {dataset.examples} examples before, {new['examples']} now"
                facts: dict[str, Fact] = {"before": changed.before, "digest": changed.seen.digest}
                vault.log(db, "dataset_changed", dataset.client, words, **facts)


def _numbers(reading: Reading, plan: LoadingPlan | None, place: Path) -> _Found:
    columns = columns_of(reading, plan, place)
    check_columns(columns)
    check_minimum(count(columns), reading.minimum)
    return _Found(count(columns), tuple(sorted(columns)), summary(columns))


def _texts(reading: Reading, place: Path) -> _Found:
    """Of a table with texts: what its columns are, and how many rows there are."""
    with text_of(kind_read(reading, None, place), place) as rows:
        if rows is None:
            raise unaligned("A file of this kind has no texts.")
        lines = Counter[str]()
        columns = draft_rows(_counted(rows, lines))
    examples = lines["rows"] - 1  # the first has the names
    if examples < 1 or not columns:
        raise DataError("dataset_empty", "The dataset has no rows.", "", "Add a dataset with at least one example.")
    check_minimum(examples, reading.minimum)
    kinds = {
        name: {"dtype": "text", "classes": len(c.classes)} if c.classes else {"dtype": "number"}
        for name, c in columns.items()
    }
    return _Found(examples, tuple(sorted(columns)), tuple({"name": name, **kinds[name]} for name in sorted(columns)))


def _counted(rows: Rows, lines: Counter[str]) -> Rows:
    """The rows that are not empty; how many passed stands in ``lines``."""
    for row in rows:
        if row:
            lines["rows"] += 1
            yield row
