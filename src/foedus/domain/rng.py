"""Randomness as an argument: one generator per (seed, round, client name, purpose), the same everywhere."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch


def derive(seed: int, round_number: int, client: str, purpose: str) -> int:
    """A 63-bit seed for one purpose of one client in one round.

    The four are hashed with SHA-256, so neighbouring rounds or names share nothing.

    >>> derive(1, 0, "c0000", "batches") == derive(1, 0, "c0001", "batches")
    False
    """
    text = f"{seed}\0{round_number}\0{client}\0{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, round_number: int, client: str, purpose: str) -> torch.Generator:
    """A fresh generator on the CPU for :func:`derive`'s seed."""
    return torch.Generator().manual_seed(derive(seed, round_number, client, purpose))


def seed_all(seed: int) -> None:
    """Set what a plan may draw from without asking: the process-wide generators of torch, Python and NumPy.

    >>> seed_all(3); first = random.random(), float(np.random.rand()), float(torch.rand(1))
    >>> seed_all(3); first == (random.random(), float(np.random.rand()), float(torch.rand(1)))
    True
    """
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def beside() -> tuple[object, ...]:
    """Where the generators of Python and NumPy stand, which no graph of tensors can draw from; to be compared."""
    state = np.random.get_state(legacy=False)
    return random.getstate(), repr(state)


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn or seeded in here, the process-wide generators stand at the end where they stood before."""
    drawn, python, numpy = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(drawn)
        random.setstate(python)
        np.random.set_state(numpy)


@dataclass(frozen=True)
class Randomness:
    """What one client's work in one round may draw from."""

    seed: int
    round: int
    client: str

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator for one purpose."""
        return generator(self.seed, self.round, self.client, purpose)

    def derive(self, purpose: str) -> int:
        """The seed of that generator."""
        return derive(self.seed, self.round, self.client, purpose)
