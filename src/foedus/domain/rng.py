"""Randomness as an argument: one generator per (seed, round, client name, purpose), the same everywhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

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
