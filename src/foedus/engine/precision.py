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
def crossover() -> int:
    """The multiply-adds from which the other library's product of two matrices is float32's and faster; 0 for never."""
    generator, found = torch.Generator().manual_seed(0), 0
    for rows, inner, columns in reversed(LADDER):
        a, b = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
        if not _better(a, b):
            break
        found = rows * inner * columns
    return found


def _better(a: Tensor, b: Tensor) -> bool:
    """Whether the other library's product of these is as good as the default one's, and faster; they take turns."""
    exact = a.double() @ b.double().T
    errors, times = dict[str, float](), dict[str, list[float]]()
    for _ in range(TRIALS):
        for precision in (DEFAULT, OTHER):
            with products(precision):
                began = time.perf_counter()
                product = torch.mm(a, b.T)
                times.setdefault(precision, []).append(time.perf_counter() - began)
            errors[precision] = float((product - exact).norm())
    faster = min(times[OTHER]) * GAIN <= min(times[DEFAULT])
    return faster and errors[OTHER] <= WORSE * errors[DEFAULT]
