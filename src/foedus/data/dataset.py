"""A client's data: named columns as they are kept, and examples as the plan prepared them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor

from foedus.domain.errors import DataError, PlanError
from foedus.domain.names import PART
from foedus.domain.rng import Randomness, derive, generator, seed_all

Columns = Mapping[str, Tensor]
"""Named columns; the first dimension of each is the number of examples."""

Values = Tensor | dict[str, Tensor]
"""One tensor, or several by name; the first dimension of each is the number of examples."""

TRAINED_ON, TESTED_ON, VALIDATED_ON = 0, 1, 2
"""What a row is for, as the column :data:`foedus.domain.names.PART` says it."""


def count(columns: Columns) -> int:
    """The number of examples."""
    return len(next(iter(columns.values())))


@dataclass(frozen=True)
class Examples:
    """``inputs`` and ``targets``, each one tensor ``[n, ...]`` or several by name."""

    inputs: Values
    targets: Values

    def __len__(self) -> int:
        for values in (self.targets, self.inputs):
            tensor = values if isinstance(values, Tensor) else next(iter(values.values()), None)
            if tensor is not None:
                return tensor.size(0)
        return 0

    def take(self, index: Tensor | slice) -> Examples:
        """The examples at ``index`` ``[k]``; a range of them is a view."""
        if isinstance(index, Tensor):
            index = index.to(next(iter(self.tensors.values())).device)
        return Examples(_taken(self.inputs, index), _taken(self.targets, index))

    def to(self, device: str) -> Examples:
        """The examples on a device; what is there already is not copied."""
        return Examples(_on(self.inputs, device), _on(self.targets, device))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by ``inputs`` and ``targets``, or ``inputs.NAME`` and ``targets.NAME``."""
        return {**named("inputs", self.inputs), **named("targets", self.targets)}


def named(name: str, values: Values) -> dict[str, Tensor]:
    """One tensor as ``name``, several as ``name.KEY``."""
    return {name: values} if isinstance(values, Tensor) else {f"{name}.{key}": t for key, t in values.items()}


def _on(values: Values, device: str) -> Values:
    return {name: t.to(device) for name, t in values.items()} if isinstance(values, dict) else values.to(device)


def _taken(values: Values, index: Tensor | slice) -> Values:
    if isinstance(values, dict):
        return {name: _rows(tensor, index) for name, tensor in values.items()}
    return _rows(values, index)


def _rows(tensor: Tensor, index: Tensor | slice) -> Tensor:
    return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)


Prepare = Callable[[Columns], "tuple[Values, Values] | Examples"]
"""A plan's ``prepare``: inputs and targets, or examples as they are."""

NO_EXAMPLES = Examples(torch.empty(0), torch.empty(0))


@dataclass(frozen=True)
class ClientData:
    """One client's prepared data, in parts that share no example: to train on, to test on, and to validate on.

    ``given``: the data say themselves which part an example is in.
    """

    name: str
    train: Examples
    test: Examples
    validation: Examples = NO_EXAMPLES
    given: bool = False

    def to(self, device: str) -> ClientData:
        """The same on a device."""
        train, test, validation = (part.to(device) for part in (self.train, self.test, self.validation))
        return replace(self, train=train, test=test, validation=validation)

    def shuffled(self, rng: Randomness) -> ClientData:
        """The same with another test part of the same size, drawn for this round; what was given stays as it is."""
        if self.given or not len(self.test):
            return self
        tested, n = len(self.test), len(self.test) + len(self.train)
        order = torch.randperm(n, generator=rng.generator("split"))
        both = _joined(self.test, self.train)
        return replace(self, train=both.take(order[tested:]), test=both.take(order[:tested]))


def _joined(first: Examples, second: Examples) -> Examples:
    """The examples of both, in this order."""

    def joined(one: Values, other: Values) -> Values:
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            return torch.cat([one, other])
        assert isinstance(one, dict) and isinstance(other, dict)
        return {name: torch.cat([tensor, other[name]]) for name, tensor in one.items()}

    return Examples(joined(first.inputs, second.inputs), joined(first.targets, second.targets))


def check_columns(columns: Columns, what: str = "The dataset") -> None:
    """Refuse columns that nobody can learn from; ``what`` they are begins the refusal.

    Raises:
        DataError: ``dataset_empty``, ``dataset_ragged``, ``dataset_not_finite``.
    """
    sizes = {name: len(column) if column.ndim else 0 for name, column in columns.items()}
    if not sizes or 0 in sizes.values():
        raise DataError("dataset_empty", f"{what} has no rows.", "", "Add a dataset with at least one example.")
    if len(set(sizes.values())) > 1:
        raise DataError(
            "dataset_ragged",
            f"{what} has columns that differ in their number of rows.",
            f"Rows: {sizes}.",
            "Give every column a value for each example.",
        )
    for name, column in columns.items():
        if column.dtype.is_floating_point and not bool(torch.isfinite(column).all()):
            raise DataError(
                "dataset_not_finite",
                f"{what} has a column, `{name}`, with missing values (NaN) or infinities.",
                "A model that sees one of them is spoilt.",
                "Impute or remove those rows first.",
            )


def split(examples: Examples, test: float, validation: float, seed: int, client: str) -> ClientData:
    """The client's parts, by a permutation from the seed: the same in every round, and never all kept from training.

    ``floor(share * n)`` examples each; where they would leave none to train on, the test part comes first. A share of 1
    is for runs that do not train: all examples are tested on.
    """
    n = len(examples)
    if test == 1:
        return ClientData(client, examples.take(slice(0)), examples)
    order = torch.randperm(n, generator=generator(seed, 0, client, "split"))
    tested = min(int(test * n), n - 1)
    kept = min(tested + int(validation * n), n - 1)
    train, tests, others = (examples.take(part) for part in (order[kept:], order[:tested], order[tested:kept]))
    return ClientData(client, train, tests, others)


def given_split(examples: Examples, part: Tensor, client: str) -> ClientData:
    """The client's parts as its data say them; ``part`` ``[n]`` has for each example what it is for.

    Raises:
        DataError: ``split_refused``.
    """
    trained = part == TRAINED_ON
    known = trained | (part == TESTED_ON) | (part == VALIDATED_ON)
    if part.ndim != 1 or len(part) != len(examples) or not bool(known.all()) or not bool(trained.any()):
        raise DataError(
            "split_refused",
            f"The column `{PART}` of the dataset of {client} is no split.",
            "It says for each example whether it is to train on (0), to test on (1) or to validate on (2).",
            "Mend the column, train on one example at least, and let the plan's prepare() keep the number of rows.",
        )
    rows = (torch.nonzero(part == wanted).flatten() for wanted in (TRAINED_ON, TESTED_ON, VALIDATED_ON))
    train, test, validation = (examples.take(index) for index in rows)
    return ClientData(client, train, test, validation, given=True)


def prepare_client(
    name: str, columns: Columns, prepare: Prepare, test: float, seed: int, validation: float = 0.0
) -> ClientData:
    """A client's columns through the plan's ``prepare``, checked and split by shares for testing and validation.

    Where the data have a split of their own (the column :data:`foedus.domain.names.PART`), it stands instead.
    Nothing is made of columns without rows.

    Raises:
        DataError: ``column_missing``, ``split_refused``, and as :func:`check_columns`.
        PlanError: ``prepare_failed``, ``prepare_refused``.
    """
    if columns and all(column.ndim and not len(column) for column in columns.values()):
        return ClientData(name, NO_EXAMPLES, NO_EXAMPLES)
    check_columns(columns, f"The dataset of {name}")
    seed_all(derive(seed, 0, name, "prepare"))
    try:
        prepared = prepare({key: column for key, column in columns.items() if key != PART})
    except Exception as error:
        raise _failure(name, columns, error) from error
    if PART in columns:
        return given_split(_examples(prepared), columns[PART], name)
    return split(_examples(prepared), test, validation, seed, name)


def _failure(name: str, columns: Columns, error: Exception) -> DataError | PlanError:
    asked = error.args[0] if isinstance(error, KeyError) and error.args else None
    # A plan may look things up in tables of its own; what is missing there can be a value of the data.
    if isinstance(asked, str) and asked not in columns:
        return DataError(
            "column_missing",
            f"The plan asks for the column {asked[:64]!r}, which the dataset of {name} does not have.",
            f"Its columns are: {', '.join(sorted(columns))}.",
            "Use a dataset with that column, or change the plan's prepare().",
        )
    return PlanError(
        "prepare_failed",
        f"The plan's prepare() failed on {name}.",
        f"{type(error).__name__}: {error}",
        "Mend prepare(); it is given a dict of columns, each a tensor.",
    )


def _examples(prepared: object) -> Examples:
    match prepared:
        case Examples():
            return prepared
        case (inputs, targets) if _are_values(inputs) and _are_values(targets):
            examples = Examples(inputs, targets)
            if len({len(tensor) for tensor in examples.tensors.values()}) == 1:
                check_columns(examples.tensors)
                return examples
    raise PlanError(
        "prepare_refused",
        "The plan's prepare() did not return inputs and targets.",
        "It has to return two tensors, or dicts of tensors, with the same number of rows.",
        "Return `inputs, targets`.",
    )


def _are_values(values: object) -> TypeGuard[Values]:
    tensors = list(values.values()) if isinstance(values, dict) else [values]
    names = list(values) if isinstance(values, dict) else []
    return (
        bool(tensors)
        and all(isinstance(name, str) and name.isidentifier() for name in names)
        and all(isinstance(tensor, Tensor) and tensor.ndim > 0 for tensor in tensors)
    )
