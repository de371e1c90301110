"""A tidied graph as a program: products turned and sent to a library as the recipe says, operations by cheap names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from foedus.engine.precision import DEFAULT, OTHER, library
from foedus.engine.recipe import Recipe
from foedus.engine.tidy import PRODUCTS, STEPS, aten, erase_dead, root, transposed, value_of, writes

SHORT = {
    *("view", "reshape", "expand", "t", "transpose", "permute", "unsqueeze", "squeeze", "select", "neg", "mul", "add"),
    *("sub", "div", "ne", "eq", "where", "gather", "sum", "clamp", "relu", "exp", "log", "tanh", "sigmoid"),
    *("_log_softmax", "_log_softmax_backward_data", "scatter_add", "mm", "bmm", "addmm", "baddbmm"),
    *("sub_", "add_", "mul_", "copy_", "addmm_", "baddbmm_"),
}
"""Operations that PyTorch also offers as plain functions or methods with the same arguments."""


def compiled(module: fx.GraphModule, recipe: Recipe) -> Callable[..., Any]:
    """The graph as Python, with operations called by the names that cost least to call.

    Large products go to the other library as the recipe says. Where tensors come with channels last, or products are
    turned, what was a view when it was traced may have to be a copy.
    """
    if recipe.channels_last or recipe.turned:
        _copy_where_views_fail(module.graph)
    for node in list(module.graph.nodes):
        if library(recipe.other, _multiply_adds(node)) != DEFAULT:
            with module.graph.inserting_before(node):
                module.graph.call_function(torch.set_float32_matmul_precision, (OTHER,))
            with module.graph.inserting_after(node):
                module.graph.call_function(torch.set_float32_matmul_precision, (DEFAULT,))
    for node in module.graph.nodes:
        name = getattr(node.target, "_schema", None) and node.target._schema.name.removeprefix("aten::")
        if name in SHORT and not set(node.kwargs) - {"alpha", "beta"}:
            node.target = getattr(torch, name, None) or getattr(Tensor, name, node.target)
        elif node.target is aten._to_copy.default and _as_method(node):
            node.target, node.kwargs = Tensor.to, {**node.kwargs, "copy": True}
    module.graph.lint()
    module.recompile()
    run: Callable[..., Any] = module.forward
    return run


def _as_method(copy: Node) -> bool:
    """Whether ``Tensor.to`` can do it: it is asked of a tensor, and takes no layout."""
    return isinstance(copy.args[0], Node) and set(copy.kwargs) <= {"dtype", "device"}


def turnable(graph: fx.Graph, carried: int) -> int:
    """The multiply-adds of the largest product that :func:`turn` is for; 0 where most are in products it is not for.

    A library prepares the right factor of a product first. So a weight, where it is larger than the batch that is
    multiplied with it, had better stand on the left: ``a W = (Wᵀ aᵀ)ᵀ``.
    """
    larger, others = list[int](), list[int]()
    for node in _with_weights(graph, carried):
        left, right = _factors(node)
        (larger if value_of(right).numel() > value_of(left).numel() else others).append(_multiply_adds(node))
    return max(larger, default=0) if sum(larger) > sum(others) else 0


def turn(graph: fx.Graph, carried: int) -> None:
    """Compute every product with a weight of the carry as the transposition of the transpositions' product.

    All or none: what lies in memory the other way round is slow to combine with what does not.
    """
    for node in _with_weights(graph, carried):
        assert callable(node.target)
        with graph.inserting_before(node):
            bias = [_column(graph, added) for added in node.args[: PRODUCTS[node.target]] if isinstance(added, Node)]
            factors = [transposed(graph, factor) for factor in reversed(_factors(node))]
            product = graph.call_function(node.target, (*bias, *factors), node.kwargs)
            product.meta = {"val": value_of(node).mT}
            node.replace_all_uses_with(transposed(graph, product))
        graph.erase_node(node)
    erase_dead(graph)


def _with_weights(graph: fx.Graph, carried: int) -> list[Node]:
    """The products of something with a weight of the carry."""
    weights = [node for node in graph.nodes if node.op == "placeholder"][:carried]
    return [node for node in graph.nodes if node.target in PRODUCTS and root(_factors(node)[1]) in weights]


def _factors(product: Node) -> tuple[Node, Node]:
    left, right = product.args[PRODUCTS.get(product.target, 1) :][:2]
    assert isinstance(left, Node)
    assert isinstance(right, Node)
    return left, right


def _column(graph: fx.Graph, bias: Node) -> Node:
    """What is added to each row, as what is added to each column."""
    if value_of(bias).ndim != 1:
        return transposed(graph, bias) if value_of(bias).ndim else bias
    column = graph.call_function(aten.unsqueeze.default, (bias, -1))
    column.meta = {"val": value_of(bias)[:, None]}
    return column


def _copy_where_views_fail(graph: fx.Graph) -> None:
    """``reshape`` for ``view``, save where something is written through it."""
    written = {root(node) for node in graph.nodes if writes(node)}
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default) and root(node) not in written:
            node.target = aten.reshape.default


def _multiply_adds(node: Node) -> int:
    """The multiply-adds of a product, or of each of several; 0 for anything else."""
    if node.target not in PRODUCTS and node.target not in STEPS.values():
        return 0
    left, right = _factors(node)
    return math.prod(value_of(left).shape[-2:]) * value_of(right).shape[-1]
