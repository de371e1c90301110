"""PyTorch's matrix products in float32: by its default library, or, if large, by another where that one is faster.

``medium`` lets PyTorch use bfloat16 where the processor has it, which is too coarse, and otherwise oneDNN's float32
product. Which of the two it is on this machine, and from what size on it is faster, is not looked up but measured.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

DEFAULT, OTHER = "highest", "medium"
LADDER = ((32, 128, 256), (32, 256, 256), (32, 256, 512), (32, 512, 512), (32, 512, 1024))
"""Sizes at which ways to multiply are compared, of 2²⁰ to 2²⁴ multiply-adds: rows, inner, columns."""
SMALLEST = math.prod(LADDER[0])
TRIALS = 16
GAIN = 1.1
"""How many times as fast the other library has to be …"""
WORSE = 4.0
"""… and how many times as far from float64 as the default one it may be, to be taken."""
TURNED = 1.05
"""How many times as fast products have to be with the weight on the left."""


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Matrix products of this precision, inside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def library(other: int, multiply_adds: int) -> str:
    """The precision of a product of so many, where those of ``other`` and more (0: none) go to the other library."""
    return OTHER if other and multiply_adds >= other else DEFAULT


@functools.lru_cache(None)
def exact() -> bool:
    """Whether the other library's products are float32's on this machine."""
    return all(_error(a, b, OTHER) <= WORSE * _error(a, b, DEFAULT) for a, b in _pairs())


@functools.lru_cache(None)
def crossover() -> int:
    """The multiply-adds from which the other library's product of two matrices is faster here; 0 for never."""
    return from_what_size(_by_the_other, GAIN) if exact() else 0


@functools.lru_cache(None)
def turning(other: int) -> int:
    """The multiply-adds from which products with a weight are faster with the weight on the left; 0 for never.

    Compared are one with a weight's transposition and one with the weight, as on the way through a layer and back, each
    by the library that it goes to.
    """

    def compared(a: Tensor, b: Tensor) -> tuple[float, float]:
        with products(library(other, a.numel() * len(b))):
            return seconds(lambda: torch.mm(b.T, torch.mm(b, a.T)), lambda: torch.mm(torch.mm(a, b.T), b))

    return from_what_size(compared, TURNED)


def from_what_size(compared: Callable[[Tensor, Tensor], tuple[float, float]], gain: float) -> int:
    """The smallest of the ladder's sizes from which the first of two ways is so many times as fast at each; or 0."""
    found = 0
    for a, b in reversed(_pairs()):
        first, second = compared(a, b)
        if first * gain > second:
            break
        found = a.numel() * len(b)
    return found


def _by_the_other(a: Tensor, b: Tensor) -> tuple[float, float]:
    return seconds(functools.partial(_product, OTHER, a, b), functools.partial(_product, DEFAULT, a, b))


def _product(precision: str, a: Tensor, b: Tensor) -> Tensor:
    with products(precision):
        return torch.mm(a, b.T)


def seconds(first: Callable[[], object], second: Callable[[], object], trials: int = TRIALS) -> tuple[float, float]:
    """The least time that each of two takes; they take turns."""
    taken: list[list[float]] = [[], []]
    for _ in range(trials):
        for way, times in zip((first, second), taken, strict=True):
            began = time.perf_counter()
            way()
            times.append(time.perf_counter() - began)
    return min(taken[0]), min(taken[1])


@functools.lru_cache(None)
def _pairs() -> Sequence[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator))
        for rows, inner, columns in LADDER
    ]


def _error(a: Tensor, b: Tensor, precision: str) -> float:
    return float((_product(precision, a, b) - a.double() @ b.double().T).norm())
