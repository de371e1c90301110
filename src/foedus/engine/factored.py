"""Weights that are not stepped but kept as what they began with and the factors of their steps.

A step of plain SGD on a weight ``W`` that is only ever multiplied with is ``W ← W + α · Lᵀ R``, with as many rows in
``L`` and ``R`` as the batch has. While a client has fewer rows in all than the weight has room for, it is cheaper to
keep the factors: ``x Wᵀ = x W₀ᵀ + α (x Rᵀ) L`` and ``g W = g W₀ + α (g Lᵀ) R``. ``W₀`` is the broadcast, the same for
every client of a stack, so no client has a copy, and the cohort's sum of updates is one product over all rows.

Where ``x`` is a batch's own input, as in a first layer, the right factors are the inputs of the batches before, known
before the first step: :mod:`foedus.engine.gram` has what is then computed for all batches at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.fx import Node

from foedus.engine.precision import library, products
from foedus.engine.recipe import Recipe
from foedus.engine.tidy import PRODUCTS, RESHAPES, STEPS, erase_dead, root, swaps_the_last_two, value_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """``scale · leftᵀ right`` for each client: ``left`` ``[clients, most rows, m]``, ``right`` ``[rows, n]``.

    The clients' rows stand one after the other in ``right``, so many of each client's as ``lengths`` says, then zeros.
    The cohort's sum goes to the other library if it takes ``other`` multiply-adds.
    """

    left: Tensor
    right: Tensor
    lengths: Sequence[int]
    scale: float
    other: int = 0

    def row(self, at: int) -> Tensor:
        """One client's, ``[m, n]``."""
        begin, length = sum(self.lengths[:at]), self.lengths[at]
        return torch.mm(self.left[at, :length].T, self.right[begin : begin + length]).mul_(self.scale)

    def weighted(self, weights: Tensor) -> Tensor:
        """The sum over clients, ``[m, n]``; ``weights`` is ``[clients]``."""
        lengths = torch.tensor(self.lengths, device=weights.device)
        rows = [each[:length] for each, length in zip(self.left.unbind(), self.lengths, strict=True)]
        rest = self.left.new_zeros(len(self.right) - sum(self.lengths), self.left.shape[-1])
        left = torch.cat([*rows, rest])
        left[: len(left) - len(rest)].mul_((self.scale * weights).repeat_interleave(lengths)[:, None])
        with products(library(self.other, self.right.numel() * left.shape[-1])):
            return torch.mm(left.T, self.right)


Where = int | slice
"""Some clients of a stack, or one."""


class Factors(Protocol):
    """A weight's factors, for all steps of a stack of clients."""

    def before(self, step: int, where: Where) -> list[Tensor]:
        """What a step needs of those before it, and of its own inputs."""

    def now(self, step: int, where: Where) -> list[Tensor]:
        """Where the factors of a step go."""

    def product(self, scale: float) -> Product:
        """What all steps come to."""


@dataclass(frozen=True)
class Both:
    """Both factors as the steps say them, ``[clients, steps · rows, …]`` each."""

    left: Tensor
    right: Tensor
    rows: int

    def before(self, step: int, where: Where) -> list[Tensor]:
        """Both, so far."""
        return [each[where, : step * self.rows] for each in (self.left, self.right)]

    def now(self, step: int, where: Where) -> list[Tensor]:
        """Both."""
        return [each[where, step * self.rows : (step + 1) * self.rows] for each in (self.left, self.right)]

    def product(self, scale: float) -> Product:
        """With rows of zeros where a client had no batch."""
        clients, rows, _ = self.left.shape
        return Product(self.left, self.right.flatten(0, 1), [rows] * clients, scale)


def rows_through(x: Tensor, base: Tensor, left: Tensor, right: Tensor, scale: float, other: int) -> Tensor:
    """``x Wᵀ``, ``[clients, rows, m]`` (or without clients); ``x W₀ᵀ`` by the ``other`` library if it is large."""
    with products(library(other, x.numel() * len(base))):
        product = torch.mm(x.reshape(-1, x.shape[-1]), base.T).view(*x.shape[:-1], -1)
    if x.ndim == 2:
        return product.addmm_(torch.mm(x, right.T), left, alpha=scale) if len(right) else product
    return product.baddbmm_(torch.bmm(x, right.mT), left, alpha=scale) if right.shape[1] else product


def inputs_through(base: Tensor, gram: Tensor, left: Tensor, scale: float) -> Tensor:
    """``x Wᵀ``, of which ``x W₀ᵀ`` is the ``base`` and ``x Rᵀ`` the ``gram``."""
    if base.ndim == 2:
        return torch.addmm(base, gram, left, alpha=scale) if len(left) else base.clone()
    return torch.baddbmm(base, gram, left, alpha=scale) if left.shape[1] else base.clone()


def columns_through(g: Tensor, base: Tensor, left: Tensor, right: Tensor, scale: float, other: int) -> Tensor:
    """``g W``, ``[clients, rows, n]`` (or without clients)."""
    return rows_through(g, base.T, right, left, scale, other)


def factorable(graph: fx.Graph, carried: int) -> dict[int, float]:
    """The places in the carry of weights that are only multiplied with and stepped once, and each one's ``α``."""
    order = {node: at for at, node in enumerate(graph.nodes)}
    found = {}
    for at, weight in enumerate([node for node in graph.nodes if node.op == "placeholder"][:carried]):
        steps = [user for user in weight.users if user.target in STEPS.values() and user.args[0] is weight]
        reads = [read for user in weight.users if user not in steps for read in _reads(user, weight)]
        if len(steps) != 1 or None in reads or not reads or steps[0].kwargs.get("beta", 1) != 1:
            continue
        last = max(order[read] for read in reads if read is not None)
        alpha = steps[0].kwargs.get("alpha", 1)
        only_returned = all(user.op == "output" for user in steps[0].users)
        if last < order[steps[0]] and only_returned and isinstance(alpha, (int, float)):
            found[at] = float(alpha)
    return found


def inputs_of(graph: fx.Graph, carried: int, places: Iterable[int]) -> dict[int, int]:
    """Those of the factorable weights that multiply an input of the batch which nothing else reads, with its place."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    found = {}
    for at in places:
        step, reads = _uses(placeholders[at])
        source = step.args[2]
        assert isinstance(source, Node)
        begun = root(source)
        if begun not in placeholders[carried:] or not _rows_alike(value_of(source), value_of(begun)):
            continue
        alike = all(read.args[PRODUCTS[read.target]] is source and swapped for read, swapped in reads)
        if alike and _leads_only_to(begun, source, {step, *(read for read, _ in reads)}):
            found[at] = placeholders.index(begun) - carried
    return found


def factor(graph: fx.Graph, carried: int, recipe: Recipe) -> None:
    """Rewrite the products of the recipe's weights; inputs for each are added at the end, and results.

    The inputs are the factors so far, ``left`` and ``right``; the results are those of this step. The weight's own
    input is what it began with, and is returned as it came. Of a weight of its ``inputs`` the ``base``, the ``gram``
    and the ``left`` factor so far are the inputs, and the left factor of this step is the result. A large product with
    what a weight began with goes to the other library.

    Raises:
        ValueError: where a weight cannot be kept so.
    """
    scales, inputs, places = factorable(graph, carried), recipe.inputs, tuple(recipe.factored)
    if not set(places) <= set(scales):
        raise ValueError("a weight is not only multiplied with")
    if inputs_of(graph, carried, inputs) != inputs:
        raise ValueError("a weight is not only multiplied with an input")
    weights = [node for node in graph.nodes if node.op == "placeholder"][:carried]
    output = next(node for node in graph.nodes if node.op == "output")
    results: list[object] = list(output.args[0])
    for at in places:
        weight = weights[at]
        step, reads = _uses(weight)
        names = ("base", "gram", "left") if at in inputs else ("left", "right")
        added = [_placeholder(graph, f"{name}_{at}") for name in names]
        for read, swapped in reads:
            if at in inputs:
                _reroute(graph, read, inputs_through, (*added, scales[at]))
            else:
                through = rows_through if swapped else columns_through
                x = read.args[PRODUCTS[read.target]]
                _reroute(graph, read, through, (x, weight, *added, scales[at], recipe.other))
        with graph.inserting_before(step):
            left = graph.call_function(aten.transpose.int, (step.args[1], -2, -1))
        results = [weight if result is step else result for result in results]
        results.extend([left] if at in inputs else [left, step.args[2]])
        output.args = (results,)
        graph.erase_node(step)
    erase_dead(graph)


def _placeholder(graph: fx.Graph, name: str) -> Node:
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        return graph.placeholder(name)


def _uses(weight: Node) -> tuple[Node, list[tuple[Node, bool]]]:
    """The step of a factorable weight, and the products with it, each with whether the weight is transposed there."""
    (step,) = [user for user in weight.users if user.target in STEPS.values()]
    reads = []
    for user in [user for user in weight.users if user is not step]:
        swapped = user.target not in PRODUCTS
        reads += [(read, swapped) for read in (list(user.users) if swapped else [user])]
    return step, reads


def _rows_alike(source: Tensor, begun: Tensor) -> bool:
    """Whether one has the same rows as the other, in another shape perhaps."""
    return source.shape[:-1] == begun.shape[: source.ndim - 1] and source.numel() == begun.numel()


def _leads_only_to(begun: Node, source: Node, uses: set[Node]) -> bool:
    """Whether ``source`` is ``begun`` reshaped, and both have no other use than these and that."""
    if source is begun:
        return set(source.users) <= uses
    before = source.args[0]
    return (
        source.target in RESHAPES
        and set(source.users) <= uses
        and isinstance(before, Node)
        and _leads_only_to(begun, before, {source})
    )


def _reads(user: Node, weight: Node) -> list[Node | None]:
    """The products that a user of the weight is, or leads to; a none where it does anything else."""
    if user.target in PRODUCTS:
        place = PRODUCTS[user.target]
        right = user.args[place + 1] is weight and weight not in user.args[: place + 1] and not user.kwargs
        return [user if right else None]
    if user.target in (aten.transpose.int, aten.t.default) and swaps_the_last_two(user):
        return [read for inner in user.users for read in (_reads(inner, user) if inner.target in PRODUCTS else [None])]
    return [None]


def _reroute(graph: fx.Graph, read: Node, through: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
    with graph.inserting_before(read):
        result = graph.call_function(through, arguments)
        result.meta = read.meta
        if PRODUCTS[read.target]:
            result = graph.call_function(aten.add_.Tensor, (result, read.args[0]))
            result.meta = read.meta
    read.replace_all_uses_with(result)
    graph.erase_node(read)
