"""A tree of dicts of tensors, taken apart into its tensors and put together again: how traced programs see a carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from foedus.local.work import Carry


class UntraceableError(Exception):
    """Why a step cannot be a graph, as a clause."""


Spec = tuple[tuple[str, "Spec | None"], ...]


@dataclass(frozen=True)
class Form:
    """What a carry is made of: the names in its dicts, in order, down to its tensors."""

    spec: Spec

    @property
    def size(self) -> int:
        """The number of tensors."""
        return _count(self.spec)

    def join(self, tensors: Sequence[Tensor]) -> Carry:
        """The carry with these tensors."""
        return _build(self.spec, iter(tensors))


def split(carry: Carry) -> tuple[Form, list[Tensor]]:
    """A carry's form and its tensors.

    Raises:
        UntraceableError: where it holds anything else.
    """
    tensors: list[Tensor] = []
    return Form(_take_apart(carry, tensors)), tensors


def _take_apart(node: Carry, tensors: list[Tensor]) -> Spec:
    spec: list[tuple[str, Spec | None]] = []
    for name, inner in node.items():
        if isinstance(inner, dict):
            spec.append((name, _take_apart(inner, tensors)))
        elif isinstance(inner, Tensor):
            tensors.append(inner)
            spec.append((name, None))
        else:
            raise UntraceableError(f"its carry holds a {type(inner).__name__}, which is not a tensor")
    return tuple(spec)


def _build(spec: Spec, tensors: Iterator[Tensor]) -> Carry:
    return {name: next(tensors) if inner is None else _build(inner, tensors) for name, inner in spec}


def _count(spec: Spec) -> int:
    return sum(1 if inner is None else _count(inner) for _, inner in spec)
