"""PyTorch's matrix products in float32: by its default library, or by another that is faster on some machines.

``medium`` lets PyTorch use bfloat16 where the processor has it, which is too coarse, and otherwise oneDNN's float32
product. Which of the two it is on this machine is not looked up but measured.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

DEFAULT, OTHER = "highest", "medium"
SHAPES = ((32, 784, 512), (10, 128, 62), (512, 32, 784))
TRIALS = 5
WORSE = 4.0
"""A product may be this many times as far from float64 as the default one."""


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Matrix products of this precision, inside."""
    before = torch.get_float32_matmul_precision()
    if before != precision:
        torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        if before != precision:
            torch.set_float32_matmul_precision(before)


@functools.lru_cache(None)
def usable() -> tuple[str, ...]:
    """The precisions whose products are float32's on this machine, the default first."""
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
        exact = a.double() @ b.double()
        errors = []
        for precision in (DEFAULT, OTHER):
            with products(precision):
                errors.append(float((a @ b - exact).norm()))
        if not errors[1] <= WORSE * errors[0]:
            return (DEFAULT,)
    return (DEFAULT, OTHER)


def faster(rows: int, inner: int, columns: int) -> str:
    """The usable precision that is faster for a product of these sizes, on this machine."""
    a, b = torch.randn(rows, inner), torch.randn(columns, inner)
    times = {precision: list[float]() for precision in usable()}
    for _ in range(TRIALS):
        for precision, taken in times.items():
            with products(precision):
                began = time.perf_counter()
                torch.mm(a, b.T)
                taken.append(time.perf_counter() - began)
    return min(times, key=lambda precision: min(times[precision]))
