"""Alignment of tables: one loading plan for sites whose columns and classes differ, agreed on before round 1.

Of each site's table a plan is drafted: it says names of columns and classes, and no other cell. United, the plans give
every site the same columns, in the same numbers. What a site lacks is filled by rule: a class that is missing, or that
nobody named, has a number of its own; a number that is missing is 0. Owners draft by themselves, and hand on what they
have read (``foedus data align``); or a run asks their nodes (``[data.align]``). Free of torch.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import tomli_w

from foedus.data.loading_plan import COLUMNS, MISSING, ColumnTable, LoadingPlan, read_loading_plan
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.names import PART
from foedus.domain.plain import Json
from foedus.domain.table import Table, Text, validate

CLASSES = 100
"""Different texts of a column at most: what has more are names or dates, say, which should not leave a site."""


NAME = "aligned"
"""What a run's own plan is called."""

ALIGNMENT_LIMIT = 16 << 20
"""Bytes of an alignment at most."""


class Alignment(Table):
    """How a run has every site's table read: ``label`` is the column that is learnt; each other one is an input."""

    label: Text
    plan: LoadingPlan

    def to_bytes(self) -> bytes:
        """The alignment as JSON, for the wire; the same of the same."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":")).encode()


def parse_alignment(content: bytes) -> Alignment:
    """The alignment from :meth:`Alignment.to_bytes`.

    Raises:
        ConfigError: ``config_refused``, ``align_refused``.
    """
    try:
        body = json.loads(content) if len(content) <= ALIGNMENT_LIMIT else None
    except (ValueError, RecursionError):
        body = None
    return _checked(validate(Alignment, body if isinstance(body, dict) else {}, "The alignment"))


def read_alignment(path: Path, label: str) -> Alignment:
    """The alignment by a loading plan of the researcher's, a TOML file.

    Raises:
        ConfigError: ``align_refused``, and as :func:`foedus.data.loading_plan.read_loading_plan`.
    """
    return _checked(Alignment(label=label, plan=read_loading_plan(path)))


def alignment_of(sites: Iterable[Mapping[str, ColumnTable]], label: str) -> Alignment:
    """The alignment that is made of what these sites tell of their columns; the same in whatever order.

    Raises:
        ConfigError: ``align_refused``, as :func:`unite`.
    """
    plans = [LoadingPlan(name=NAME, columns=dict(columns)) for columns in sites if columns]
    made = Alignment(label=label, plan=unite(plans, NAME, label, lenient=True))
    if len(made.to_bytes()) > ALIGNMENT_LIMIT:
        raise _refused(f"Their columns and classes take more than {ALIGNMENT_LIMIT >> 20} MiB.", "Leave some out.")
    return made


def _checked(alignment: Alignment) -> Alignment:
    if alignment.label not in alignment.plan.columns:
        raise _refused(f"The loading plan has no column `{alignment.label}`.", "Name the column with `data.label`.")
    return alignment


def schema_of(alignment: Alignment) -> Mapping[str, Json]:
    """What a plan may build its model for: ``label``, the names of ``inputs``, and how many numbers ``classes`` have.

    Of an input that is the classes there are and the one of what is missing, where it is filled; of the label, those
    that there are.
    """
    columns = alignment.plan.columns
    classes: dict[str, Json] = {
        name: int(max([*column.classes.values(), *_filling(column)])) + 1
        for name, column in columns.items()
        if column.classes
    }
    inputs: list[Json] = [name for name in sorted(columns) if name not in (alignment.label, PART)]
    return {"label": alignment.label, "inputs": inputs, "classes": classes}


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
            columns = draft_rows(csv.reader(opened))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError("dataset_unreadable", f"The file {file.name} cannot be read.", type(error).__name__) from error
    if not columns:
        raise DataError("dataset_unreadable", f"The file {file.name} has no column with a value.")
    return LoadingPlan(name=name, columns=columns)


def without_split(columns: Mapping[str, ColumnTable]) -> dict[str, ColumnTable]:
    """The columns that a site tells of: how its rows are divided is its owner's alone."""
    return {name: column for name, column in columns.items() if name != PART}


def unite(plans: Sequence[LoadingPlan], name: str, label: str, *, lenient: bool = False) -> LoadingPlan:
    """The plan with the columns and classes of all; a column that one of them lacks may be absent.

    ``lenient``: any may be, but for the label, as there are sites whose plans are not among these.

    Raises:
        ConfigError: ``align_refused`` where a column is numbers at one site and classes at another, or all lack the
            label.
    """
    every = sorted({column for plan in plans for column in plan.columns})
    if len(every) > COLUMNS:
        raise _refused(f"Together they have {len(every)} columns.", f"A table has {COLUMNS} at most: leave some out.")
    if label not in every:
        raise _refused(f"No site has the column `{label}`.", "Name the one that is learnt: `data.label`, or --label.")
    return LoadingPlan(name=name, columns={each: _united(each, plans, each == label, lenient) for each in every})


def to_toml(plan: LoadingPlan) -> str:
    """The plan as an owner reads it and a node takes it."""
    return tomli_w.dumps(plan.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True))


def _united(name: str, plans: Sequence[LoadingPlan], is_label: bool, lenient: bool) -> ColumnTable:
    having = [plan.columns[name] for plan in plans if name in plan.columns]
    texts = sorted({text for column in having for text in column.classes})
    if texts and not all(column.classes for column in having):
        raise _refused(f"The column `{name}` is numbers at one site and texts at another.", "Mend one of the plans.")
    _check_few(name, texts)
    classes = {text: float(number) for number, text in enumerate(texts)}
    kind: Literal["float32", "int64"] = "int64" if all(column.type == "int64" for column in having) else "float32"
    if is_label:
        return ColumnTable(classes=classes, type="int64" if classes else kind)
    lacking = lenient or len(having) < len(plans) or any(column.absent == "missing" for column in having)
    return ColumnTable(
        classes=classes,
        missing=float(len(texts)),
        absent="missing" if lacking else "refuse",
        unknown="missing" if classes else "refuse",
        type="int64" if classes else kind,
    )


def _filling(column: ColumnTable) -> list[float]:
    return [column.missing] if isinstance(column.missing, float) else []


def draft_rows(rows: Iterator[list[str]]) -> dict[str, ColumnTable]:
    """The columns of a table, the first row with their names, as :func:`draft` has them; one without a value is none.

    Raises:
        ConfigError: ``align_refused``.
    """
    numbers: dict[str, bool] = {}
    texts: dict[str, set[str]] = {}
    header = [name.strip() for name in next(rows, [])]
    for row in rows:
        for name, cell in _cells(header, row):
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


def _cells(names: Sequence[str], row: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The cells that have a value, without spaces around; what has no name in the header is none."""
    for name, cell in zip(names, map(str.strip, row), strict=False):
        if name and cell.casefold() not in MISSING:
            yield name, cell


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
