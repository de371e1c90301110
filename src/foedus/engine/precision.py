"""PyTorch's matrix products in float32: by its default library, or, if large, by another where that one is faster.

``medium`` lets PyTorch use bfloat16 where the processor has it, which is too coarse, and otherwise oneDNN's float32
product. Which of the two it is on this machine, and from what size on it is faster, is not looked up but measured.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

DEFAULT, OTHER = "highest", "medium"
LADDER = ((32, 128, 256), (32, 256, 256), (32, 256, 512), (32, 512, 1024))
"""Sizes at which the two are compared, of 2²⁰ to 2²⁴ multiply-adds."""
TRIALS = 16
GAIN = 1.1
"""How many times as fast the other library has to be …"""
WORSE = 4.0
"""… and how many times as far from float64 as the default one it may be, to be taken."""


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
    found = 0
    for a, b in reversed(_pairs()) if exact() else ():
        if not _faster(a, b):
            break
        found = a.numel() * len(b)
    return found


def _pairs() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator))
        for rows, inner, columns in LADDER
    ]


def _error(a: Tensor, b: Tensor, precision: str) -> float:
    with products(precision):
        return float((torch.mm(a, b.T) - a.double() @ b.double().T).norm())


def _faster(a: Tensor, b: Tensor) -> bool:
    """Whether the other library's product of these is faster than the default one's; they take turns."""
    times: dict[str, list[float]] = {DEFAULT: [], OTHER: []}
    for _ in range(TRIALS):
        for precision, taken in times.items():
            with products(precision):
                began = time.perf_counter()
                torch.mm(a, b.T)
                taken.append(time.perf_counter() - began)
    return min(times[OTHER]) * GAIN <= min(times[DEFAULT])
