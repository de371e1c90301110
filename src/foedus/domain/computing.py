"""How a simulation may be asked to compute: kernels and executors by name, known before any of them is loaded."""

from __future__ import annotations

KERNELS = ("auto", "eager", "graph")
EXECUTORS = ("auto", "inline", "workers", "ray")
