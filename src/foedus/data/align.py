"""Alignment of tables: one loading plan for sites whose columns and classes differ, agreed on before round 1.

Each owner drafts a plan from the site's own file, reads it, and hands it on: it says names of columns and classes, and
no other cell. United, the plans give every site the same columns, in the same numbers. What a site lacks is filled by
rule: a class that is missing, or that nobody named, has a number of its own; a number that is missing is 0. Free of
torch.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import tomli_w

from foedus.data.loading_plan import MISSING, ColumnTable, LoadingPlan, read_loading_plan
from foedus.domain.errors import ConfigError, DataError

CLASSES = 100
"""Different texts of a column at most: what has more are names or dates, say, which should not leave a site."""


def align(files: Sequence[Path], name: str, label: str) -> LoadingPlan:
    """The loading plan of all these sites: CSV files, or plans that were drafted from some (``.toml``).

    ``label``: the column that is learnt, of which nothing is filled.

    Raises:
        ConfigError: ``align_refused``, and as :func:`foedus.data.loading_plan.read_loading_plan`.
        DataError: ``dataset_unreadable``.
    """
    plans = [read_loading_plan(file) if file.suffix.lower() == ".toml" else draft(file, name) for file in files]
    return unite(plans, name, label)


def draft(file: Path, name: str) -> LoadingPlan:
    """The plan of one CSV file: a column is numbers where every cell that is there is one, and else classes.

    Raises:
        ConfigError: ``align_refused``. DataError: ``dataset_unreadable``.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            columns = _columns(csv.DictReader(opened, restval=""))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError("dataset_unreadable", f"The file {file.name} cannot be read.", type(error).__name__) from error
    if not columns:
        raise DataError("dataset_unreadable", f"The file {file.name} has no column with a value.")
    return LoadingPlan(name=name, columns=columns)


def unite(plans: Sequence[LoadingPlan], name: str, label: str) -> LoadingPlan:
    """The plan with the columns and classes of all; a column that one of them lacks may be absent.

    Raises:
        ConfigError: ``align_refused`` where a column is numbers at one site and classes at another, or all lack the
            label.
    """
    every = sorted({column for plan in plans for column in plan.columns})
    if label not in every:
        raise _refused(f"No site has the column `{label}`.", "Name the column that is learnt with --label.")
    return LoadingPlan(name=name, columns={each: _united(each, plans, strict=each == label) for each in every})


def to_toml(plan: LoadingPlan) -> str:
    """The plan as an owner reads it and a node takes it."""
    return tomli_w.dumps(plan.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True))


def _united(name: str, plans: Sequence[LoadingPlan], *, strict: bool) -> ColumnTable:
    having = [plan.columns[name] for plan in plans if name in plan.columns]
    texts = sorted({text for column in having for text in column.classes})
    if texts and not all(column.classes for column in having):
        raise _refused(f"The column `{name}` is numbers at one site and texts at another.", "Mend one of the plans.")
    _check_few(name, texts)
    classes = {text: float(number) for number, text in enumerate(texts)}
    if strict:
        return ColumnTable(classes=classes, type="int64" if classes else "float32")
    lacking = len(having) < len(plans) or any(column.absent == "missing" for column in having)
    return ColumnTable(
        classes=classes,
        missing=float(len(texts)),
        absent="missing" if lacking else "refuse",
        unknown="missing" if classes else "refuse",
        type="int64" if classes else "float32",
    )


def _columns(rows: Iterable[Mapping[str | None, str]]) -> dict[str, ColumnTable]:
    """Each column with what its cells are; one without any value is left out."""
    numbers: dict[str, bool] = {}
    texts: dict[str, set[str]] = {}
    for row in rows:
        for name, cell in _cells(row):
            numbers[name] = numbers.get(name, True) and _is_number(cell)
            found = texts.setdefault(name, set())
            if len(found) <= CLASSES:
                found.add(cell)
    for name in numbers:
        if not numbers[name]:
            _check_few(name, texts[name])
    return {
        name: ColumnTable(classes={} if is_number else {text: float(at) for at, text in enumerate(sorted(texts[name]))})
        for name, is_number in numbers.items()
    }


def _cells(row: Mapping[str | None, str]) -> Iterator[tuple[str, str]]:
    """The cells that have a value, without spaces around; what goes beyond the header is none."""
    for name, cell in row.items():
        if name is not None and cell.strip().casefold() not in MISSING:
            yield name.strip(), cell.strip()


def _check_few(name: str, texts: Sequence[str] | set[str]) -> None:
    if len(texts) > CLASSES:
        why = f"The column `{name}` has more than {CLASSES} different texts: names or dates, perhaps."
        raise _refused(why, "Leave it out of the file that the plan is drafted from.")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _refused(why: str, fix: str) -> ConfigError:
    return ConfigError("align_refused", "These tables cannot be aligned.", why, fix)
