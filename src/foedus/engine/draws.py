"""What a traced step draws at random, taken out of the graph and drawn from each client's own generator.

So dropout in a stack gives every client the numbers that kernel ``eager`` would give it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten


@dataclass(frozen=True)
class Draw:
    """One draw for one client: how, the shape without clients, the dtype, and the distribution's arguments."""

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    arguments: tuple[float, ...]

    def make(self, generator: torch.Generator) -> Tensor:
        """Draw, ``shape``."""
        return KINDS[self.kind](self, generator)


def _bernoulli(draw: Draw, generator: torch.Generator) -> Tensor:
    return torch.empty(draw.shape, dtype=draw.dtype).bernoulli_(*draw.arguments, generator=generator)


def _rand(draw: Draw, generator: torch.Generator) -> Tensor:
    return torch.rand(draw.shape, dtype=draw.dtype, generator=generator)


def _randn(draw: Draw, generator: torch.Generator) -> Tensor:
    return torch.randn(draw.shape, dtype=draw.dtype, generator=generator)


KINDS: Mapping[str, Callable[[Draw, torch.Generator], Tensor]] = {
    "bernoulli": _bernoulli,
    "rand": _rand,
    "randn": _randn,
}
"""The draws that depend on nothing but a shape and numbers."""

OPERATIONS: Mapping[Any, str] = {
    aten.bernoulli_.float: "bernoulli",
    aten.bernoulli.p: "bernoulli",
    aten.rand.default: "rand",
    aten.rand_like.default: "rand",
    aten.randn.default: "randn",
    aten.randn_like.default: "randn",
}


def take_out_draws(module: fx.GraphModule, stacked: bool) -> tuple[Draw, ...]:
    """Make each draw of the graph an input of it, after the others, and say what it was.

    Raises:
        ValueError: where something else is drawn.
    """
    graph, draws = module.graph, []
    for node in list(graph.nodes):
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        if node.target not in OPERATIONS:
            raise ValueError(f"its step draws random numbers ({node.target})")
        value = node.meta["val"]
        shape = tuple(value.shape[1:] if stacked else value.shape)
        numbers = tuple(float(arg) for arg in node.args[1:] if isinstance(arg, (int, float)))
        kind = OPERATIONS[node.target]
        draws.append(Draw(kind, shape, value.dtype, numbers if kind == "bernoulli" else ()))
        last = [each for each in graph.nodes if each.op == "placeholder"][-1]
        with graph.inserting_after(last):
            drawn = graph.placeholder(f"draw_{len(draws)}")
        drawn.meta = node.meta
        node.replace_all_uses_with(drawn)
        graph.erase_node(node)
    return tuple(draws)
