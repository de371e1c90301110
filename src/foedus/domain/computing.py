"""How a simulation may be asked to compute: kernels, executors and devices by name, before any of them is loaded."""

from __future__ import annotations

KERNELS = ("auto", "eager", "graph")
DEVICES = ("cpu", "cuda")
EXECUTORS = ("auto", "inline", "workers", "ray")
