"""Passes over a traced step that leave its result as it is, up to rounding, and make it cheaper.

What is only a name for another tensor goes; a product whose bias is added becomes one operation; and where a gradient
is a matrix product that is only there to be stepped along, the product is added to the parameter in place.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

aten = torch.ops.aten

SAME = {aten.detach.default, aten.alias.default}
RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
SWAPS = {aten.t.default, aten.transpose.int}
VIEWS: set[Any] = SAME | RESHAPES | SWAPS | {aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims}
VIEWS |= {aten.slice.Tensor, aten.permute.default, aten.select.int, aten.reshape.default, operator.getitem}
STEPS: Mapping[Any, Any] = {aten.mm.default: aten.addmm_.default, aten.bmm.default: aten.baddbmm_.default}
"""Products, and what adds them to a tensor in place."""

PRODUCTS: Mapping[Any, int] = {aten.bmm.default: 0, aten.mm.default: 0, aten.baddbmm.default: 1, aten.addmm.default: 1}
"""Products that write to nothing, and where their left factor stands."""

FILLED = {aten.ones_like.default: 1, aten.zeros_like.default: 0, aten.new_zeros.default: 0, aten.new_ones.default: 1}
MADE = {aten.scalar_tensor.default, aten.full.default, aten.zeros.default, aten.ones.default, aten.arange.default}
PLAIN = VIEWS | {aten.neg.default, aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor}
BY = {aten.mul.Tensor, aten.div.Tensor}


def tidy(module: fx.GraphModule) -> None:
    """Tidy the graph, in place."""
    graph = module.graph
    for node in list(graph.nodes):
        source = _only_a_name(graph, node)
        if source is not None:
            node.replace_all_uses_with(source)
    _fold_constants(module)
    _join_twins(graph)
    erase_dead(graph)
    for node in list(graph.nodes):
        _add_bias_in_product(graph, node)
    for node in list(graph.nodes):
        if node.target is aten.sub_.Tensor:
            _step_in_product(graph, node)
    erase_dead(graph)


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute once what depends on no input, and leave out what multiplies or divides by one."""
    graph, constants = module.graph, dict[Node, Tensor]()
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
            continue
        inputs = node.all_input_nodes
        if node.target in FILLED:
            value = torch.full(value_of(node).shape, FILLED[node.target], dtype=value_of(node).dtype)
        elif node.target in MADE or (inputs and node.target in PLAIN and all(each in constants for each in inputs)):
            value = node.target(*fx.map_arg(node.args, constants.__getitem__), **node.kwargs)
        else:
            by_one = node.target in BY and len(inputs) == 2 and inputs[1] in constants
            same = by_one and value_of(inputs[0]).shape == value_of(node).shape
            if same and value_of(inputs[0]).dtype == value_of(node).dtype and bool((constants[inputs[1]] == 1).all()):
                node.replace_all_uses_with(inputs[0])
            continue
        if any(writes(user) for user in readers(node)):
            continue
        name = f"constant_{len(constants)}"
        module.register_buffer(name, value)
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta = node.meta
        constants[constant] = value
        node.replace_all_uses_with(constant)


def _join_twins(graph: fx.Graph) -> None:
    """Compute once what is computed twice from the same, where nothing writes to it or to what it is made of."""
    seen: dict[object, Node] = {}
    written = {root(node) for node in graph.nodes if writes(node)}
    for node in list(graph.nodes):
        if node.op != "call_function" or writes(node) or root(node) in written:
            continue
        if any(root(each) in written for each in node.all_input_nodes):
            continue
        key = (node.target, repr(node.args), repr(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
        else:
            seen[key] = node


def erase_dead(graph: fx.Graph) -> None:
    """Remove what nothing uses and what writes to nothing."""
    for node in reversed(list(graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users and not writes(node):
            graph.erase_node(node)


def writes(node: Node) -> bool:
    """Whether an operation writes to its first argument."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def value_of(node: Node) -> Tensor:
    """What a node came to when it was traced: its shape and dtype count."""
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
    if node.target is aten.mul.Scalar and node.args[1] == 1 and value_of(source).dtype == value_of(node).dtype:
        last = max(readers(node), key=list(graph.nodes).index, default=None)
        kept = last is not None and last.op != "output" and not _is_written(graph, root(source), node, last)
        return source if kept else None
    if node.target in SWAPS and source.target is node.target and source.args[1:] == node.args[1:]:
        return source.args[0] if isinstance(source.args[0], Node) else None
    if node.target in RESHAPES:
        before, after = value_of(source), value_of(node)
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
    if len(product.users) != 1 or not _may_move(graph, product, node):
        return
    if value_of(product).shape != value_of(node).shape or value_of(bias).dtype != value_of(product).dtype:
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
            if not swaps_the_last_two(product):
                return
            swapped = not swapped
        product = product.args[0]
    if not isinstance(product, Node) or not isinstance(parameter, Node):
        return
    if product.target not in STEPS or len(product.users) != 1 or not _may_move(graph, product, node):
        return
    value = value_of(product).mT if swapped else value_of(product)
    if value.shape != value_of(parameter).shape or value.dtype != value_of(parameter).dtype:
        return
    factors = [factor for factor in product.args if isinstance(factor, Node)]
    if root(parameter) in map(root, factors):
        return
    rate = node.kwargs.get("alpha", 1)
    assert isinstance(rate, (int, float))
    with graph.inserting_before(node):
        if swapped:
            factors = [transposed(graph, factor) for factor in reversed(factors)]
        fused = graph.call_function(STEPS[product.target], (parameter, *factors), {"alpha": -rate})
    fused.meta = node.meta
    node.replace_all_uses_with(fused)
    graph.erase_node(node)


def transposed(graph: fx.Graph, node: Node) -> Node:
    """A node's rows and columns swapped: what it swaps itself, or a view of it."""
    if node.target in SWAPS and swaps_the_last_two(node) and isinstance(node.args[0], Node):
        return node.args[0]
    swapped = graph.call_function(aten.transpose.int, (node, -2, -1))
    swapped.meta = {"val": value_of(node).mT}
    return swapped


def _may_move(graph: fx.Graph, product: Node, to: Node) -> bool:
    """Whether a product would read the same factors later, in the place of ``to``."""
    factors = [factor for factor in product.args if isinstance(factor, Node)]
    return not any(_is_written(graph, root(factor), product, to) for factor in factors)


def swaps_the_last_two(node: Node) -> bool:
    """Whether a transposition swaps rows and columns."""
    rank = value_of(node).ndim
    given = node.args[1:] if node.target is aten.transpose.int else (rank - 2, rank - 1)
    return {axis % rank for axis in given if isinstance(axis, int)} == {rank - 2, rank - 1}
