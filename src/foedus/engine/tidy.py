"""Passes over a traced step that leave its result as it is, up to rounding, and make it cheaper.

What is only a name for another tensor goes; a product whose bias is added becomes one operation; and where a gradient
is a matrix product that is only there to be stepped along, the product is added to the parameter in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.fx import Node

aten = torch.ops.aten

SAME = {aten.detach.default, aten.alias.default}
RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
SWAPS = {aten.t.default, aten.transpose.int}
VIEWS = SAME | RESHAPES | SWAPS | {aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.slice.Tensor}
VIEWS |= {aten.permute.default, aten.select.int, aten.reshape.default}
PRODUCTS = {aten.mm.default: aten.addmm_.default, aten.bmm.default: aten.baddbmm_.default}


def tidy(module: fx.GraphModule) -> Callable[..., list[Tensor]]:
    """The same graph, tidied and compiled to Python."""
    graph = module.graph
    for node in list(graph.nodes):
        source = _only_a_name(graph, node)
        if source is not None:
            node.replace_all_uses_with(source)
    _erase_dead(graph)
    for node in list(graph.nodes):
        _add_bias_in_product(graph, node)
    for node in list(graph.nodes):
        if node.target is aten.sub_.Tensor:
            _step_in_product(graph, node)
    _erase_dead(graph)
    graph.lint()
    module.recompile()
    run: Callable[..., list[Tensor]] = module.forward
    return run


def _erase_dead(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users and not writes(node):
            graph.erase_node(node)


def writes(node: Node) -> bool:
    """Whether an operation writes to its first argument."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is None or bool(schema.is_mutable)


def _value(node: Node) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value


def root(node: Node) -> Node:
    """The tensor whose memory ``node`` looks at."""
    while node.op == "call_function" and (node.target in VIEWS or writes(node)) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _is_written(graph: fx.Graph, memory: Node, first: Node | None = None, last: Node | None = None) -> bool:
    """Whether something writes to ``memory`` between ``first`` and ``last`` (or the ends)."""
    inside = first is None
    for node in graph.nodes:
        if node is last:
            break
        if inside and writes(node) and isinstance(node.args[0], Node) and root(node.args[0]) is memory:
            return True
        inside = inside or node is first
    return False


def _only_a_name(graph: fx.Graph, node: Node) -> Node | None:
    """What ``node`` is another name for, where it is one."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    source = node.args[0]
    if node.target in SAME:
        return source
    if node.target is aten.mul.Scalar and node.args[1] == 1 and _value(source).dtype == _value(node).dtype:
        last = max(readers(node), key=list(graph.nodes).index, default=None)
        kept = last is not None and last.op != "output" and not _is_written(graph, root(source), node, last)
        return source if kept else None
    if node.target in SWAPS and source.target is node.target and source.args[1:] == node.args[1:]:
        return source.args[0] if isinstance(source.args[0], Node) else None
    if node.target in RESHAPES:
        before, after = _value(source), _value(node)
        return source if before.shape == after.shape and before.stride() == after.stride() else None
    return None


def readers(node: Node) -> set[Node]:
    """Everything that looks at the memory of ``node``, through views too."""
    found: set[Node] = set()
    for user in node.users:
        found |= {user} | (readers(user) if user.target in VIEWS or writes(user) else set())
    return found


def _add_bias_in_product(graph: fx.Graph, node: Node) -> None:
    """``bias + bmm(a, b)`` → ``baddbmm(bias, a, b)``."""
    if node.target is not aten.add.Tensor or len(node.args) != 2 or node.kwargs:
        return
    bias, product = node.args
    while isinstance(product, Node) and product.target in RESHAPES and len(product.users) == 1:
        product = product.args[0]
    if not isinstance(bias, Node) or not isinstance(product, Node) or product.target is not aten.bmm.default:
        return
    if len(product.users) != 1 or _value(product).shape != _value(node).shape or not _may_move(graph, product, node):
        return
    if _value(bias).dtype != _value(product).dtype:
        return
    with graph.inserting_before(node):
        fused = graph.call_function(aten.baddbmm.default, (bias, *product.args))
    fused.meta = node.meta
    node.replace_all_uses_with(fused)


def _step_in_product(graph: fx.Graph, node: Node) -> None:
    """``p.sub_(product or its transpose, alpha=lr)`` → ``p.baddbmm_(a, b, alpha=-lr)``."""
    parameter, product = node.args[0], node.args[1]
    swapped = False
    while isinstance(product, Node) and len(product.users) == 1 and product.target in SWAPS | RESHAPES:
        if product.target in SWAPS:
            if not _swaps_the_last_two(product):
                return
            swapped = not swapped
        product = product.args[0]
    if not isinstance(product, Node) or not isinstance(parameter, Node):
        return
    if product.target not in PRODUCTS or len(product.users) != 1 or not _may_move(graph, product, node):
        return
    value = _value(product).mT if swapped else _value(product)
    if value.shape != _value(parameter).shape or value.dtype != _value(parameter).dtype:
        return
    factors = [factor for factor in product.args if isinstance(factor, Node)]
    if root(parameter) in map(root, factors):
        return
    rate = node.kwargs.get("alpha", 1)
    assert isinstance(rate, (int, float))
    with graph.inserting_before(node):
        if swapped:
            factors = [graph.call_function(aten.transpose.int, (factor, -2, -1)) for factor in reversed(factors)]
        fused = graph.call_function(PRODUCTS[product.target], (parameter, *factors), {"alpha": -rate})
    fused.meta = node.meta
    node.replace_all_uses_with(fused)
    graph.erase_node(node)


def _may_move(graph: fx.Graph, product: Node, to: Node) -> bool:
    """Whether a product would read the same factors later, in the place of ``to``."""
    factors = [factor for factor in product.args if isinstance(factor, Node)]
    return not any(_is_written(graph, root(factor), product, to) for factor in factors)


def _swaps_the_last_two(node: Node) -> bool:
    rank = _value(node).ndim
    given = node.args[1:] if node.target is aten.transpose.int else (rank - 2, rank - 1)
    return {axis % rank for axis in given if isinstance(axis, int)} == {rank - 2, rank - 1}
