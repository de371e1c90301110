"""Weights that are not stepped but kept as what they began with and the factors of their steps.

A step of plain SGD on a weight ``W`` that is only ever multiplied with is ``W ← W + α · Lᵀ R``, with as many rows in
``L`` and ``R`` as the batch has. While a client has fewer rows in all than the weight has room for, it is cheaper to
keep the factors: ``x Wᵀ = x W₀ᵀ + α (x Rᵀ) L`` and ``g W = g W₀ + α (g Lᵀ) R``. ``W₀`` is the broadcast, the same for
every client of a stack, so no client has a copy, and the cohort's sum of updates is one product over all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from foedus.engine.tidy import erase_dead, swaps_the_last_two

aten = torch.ops.aten
STEPS = {aten.baddbmm_.default, aten.addmm_.default}
PRODUCTS: Mapping[Any, int] = {aten.bmm.default: 0, aten.mm.default: 0, aten.baddbmm.default: 1, aten.addmm.default: 1}
"""Products, and where their left factor stands."""


@dataclass(frozen=True)
class Product:
    """``scale · leftᵀ right`` for each client: ``left`` ``[clients, rows, m]``, ``right`` ``[clients, rows, n]``."""

    left: Tensor
    right: Tensor
    scale: float

    def row(self, at: int) -> Tensor:
        """One client's, ``[m, n]``."""
        return torch.mm(self.left[at].T, self.right[at]).mul_(self.scale)

    def weighted(self, weights: Tensor) -> Tensor:
        """The sum over clients, ``[m, n]``; ``weights`` is ``[clients]``."""
        left = (self.left * (self.scale * weights)[:, None, None]).flatten(0, 1)
        return torch.mm(left.T, self.right.flatten(0, 1))


def rows_through(x: Tensor, base: Tensor, left: Tensor, right: Tensor, scale: float) -> Tensor:
    """``x Wᵀ``, ``[clients, rows, m]`` (or without clients)."""
    if x.ndim == 2:
        product = torch.mm(x, base.T)
        return product.addmm_(torch.mm(x, right.T), left, alpha=scale) if len(right) else product
    product = torch.mm(x.reshape(-1, x.shape[-1]), base.T).view(*x.shape[:2], -1)
    return product.baddbmm_(torch.bmm(x, right.mT), left, alpha=scale) if right.shape[1] else product


def columns_through(g: Tensor, base: Tensor, left: Tensor, right: Tensor, scale: float) -> Tensor:
    """``g W``, ``[clients, rows, n]`` (or without clients)."""
    return rows_through(g, base.T, right, left, scale)


def factorable(graph: fx.Graph, carried: int) -> dict[int, float]:
    """The places in the carry of weights that are only multiplied with and stepped once, and each one's ``α``."""
    order = {node: at for at, node in enumerate(graph.nodes)}
    found = {}
    for at, weight in enumerate([node for node in graph.nodes if node.op == "placeholder"][:carried]):
        steps = [user for user in weight.users if user.target in STEPS and user.args[0] is weight]
        reads = [read for user in weight.users if user not in steps for read in _reads(user, weight)]
        if len(steps) != 1 or None in reads or not reads or steps[0].kwargs.get("beta", 1) != 1:
            continue
        last = max(order[read] for read in reads if read is not None)
        alpha = steps[0].kwargs.get("alpha", 1)
        only_returned = all(user.op == "output" for user in steps[0].users)
        if last < order[steps[0]] and only_returned and isinstance(alpha, (int, float)):
            found[at] = float(alpha)
    return found


def factor(graph: fx.Graph, carried: int, places: Sequence[int]) -> None:
    """Rewrite these weights' products; two inputs for each are added at the end, and two results.

    The inputs are the factors so far, ``left`` and ``right``; the results are those of this step. The weight's own
    input is what it began with, and is returned as it came.

    Raises:
        ValueError: where a weight cannot be kept so.
    """
    scales = factorable(graph, carried)
    if not set(places) <= set(scales):
        raise ValueError("a weight is not only multiplied with")
    weights = [node for node in graph.nodes if node.op == "placeholder"][:carried]
    output = next(node for node in graph.nodes if node.op == "output")
    results: list[object] = list(output.args[0])
    for at in places:
        weight, scale = weights[at], scales[at]
        last = [node for node in graph.nodes if node.op == "placeholder"][-1]
        with graph.inserting_after(last):
            right = graph.placeholder(f"right_{at}")
        with graph.inserting_after(last):
            left = graph.placeholder(f"left_{at}")
        (step,) = [user for user in weight.users if user.target in STEPS]
        for user in [user for user in weight.users if user is not step]:
            for read in list(user.users) if user.target not in PRODUCTS else [user]:
                _reroute(graph, read, weight, (left, right, scale), swapped=user.target not in PRODUCTS)
        with graph.inserting_before(step):
            swapped = graph.call_function(aten.transpose.int, (step.args[1], -2, -1))
        results = [weight if result is step else result for result in results]
        results.extend([swapped, step.args[2]])
        output.args = (results,)
        graph.erase_node(step)
    erase_dead(graph)


def _reads(user: Node, weight: Node) -> list[Node | None]:
    """The products that a user of the weight is, or leads to; a none where it does anything else."""
    if user.target in PRODUCTS:
        place = PRODUCTS[user.target]
        right = user.args[place + 1] is weight and weight not in user.args[: place + 1] and not user.kwargs
        return [user if right else None]
    if user.target in (aten.transpose.int, aten.t.default) and swaps_the_last_two(user):
        return [read for inner in user.users for read in (_reads(inner, user) if inner.target in PRODUCTS else [None])]
    return [None]


def _reroute(graph: fx.Graph, read: Node, weight: Node, factors: tuple[Node, Node, float], *, swapped: bool) -> None:
    place = PRODUCTS[read.target]
    with graph.inserting_before(read):
        through = rows_through if swapped else columns_through
        result = graph.call_function(through, (read.args[place], weight, *factors))
        if place:
            result = graph.call_function(aten.add_.Tensor, (result, read.args[0]))
    read.replace_all_uses_with(result)
    graph.erase_node(read)
