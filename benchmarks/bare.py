"""The baseline, ``python -m benchmarks.bare FOLDER OUT PROCESSES [DTYPE]``: FedAvg in a bare PyTorch loop.

One model, ``torch.optim.SGD`` and a weighted sum; the cohort's examples are put in the order of their batches before
the clock starts. Two processes share the global model and one sum each in shared memory. In float64 this is the
reference.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from benchmarks.definitions import Job
from benchmarks.exported import Clock, Exported, read, report
from benchmarks.networks import loss, model

Batches = list[tuple[Tensor, Tensor]]
"""Clients' examples, ``(inputs, targets)``, each in the order of its batches."""


@dataclass(frozen=True)
class Part:
    """What one process works with: the data, the global parameters, its network and its sum."""

    data: Exported
    start: list[Tensor]
    net: nn.Module
    into: list[Tensor]

    def gather(self, at: int, places: range) -> Batches:
        """The examples of those that stand at these places in the cohort of round ``at``."""
        dtype = self.start[0].dtype
        rows = [self.data.order(at, place) for place in places]
        return [
            (torch.from_numpy(self.data.inputs[each]).to(dtype), torch.from_numpy(self.data.targets[each]))
            for each in rows
        ]


def run(data: Exported, processes: int, dtype: torch.dtype) -> tuple[Clock, list[Tensor]]:
    """Train; returns the times and the final parameters."""
    torch.set_num_threads(1)
    start = [torch.from_numpy(array).to(dtype) for array in data.parameters.values()]
    parts = [
        Part(data, start, model(data.job).to(dtype), [torch.zeros_like(p) for p in start]) for _ in range(processes)
    ]
    pipes = _fork(parts) if processes > 1 else []
    clock = Clock()
    for at, cohort in enumerate(data.cohorts.tolist()):
        ready = [] if pipes else parts[0].gather(at, range(len(cohort)))
        for pipe in pipes:
            pipe.send(at)
        for pipe in pipes:
            pipe.recv()
        clock.start()
        clock.resume()
        if pipes:
            for pipe in pipes:
                pipe.send(None)
            for pipe in pipes:
                pipe.recv()
        else:
            train(data.job, parts[0], ready)
        total = sum(data.size(client) for client in cohort)
        for place, parameter in enumerate(start):
            parameter.copy_(
                torch.stack([part.into[place] for part in parts]).sum(0) / total
                if pipes
                else parts[0].into[place] / total
            )
        clock.round()
    return clock, start


def train(job: Job, part: Part, ready: Batches) -> None:
    """The weighted sum of the clients' models."""
    for sums in part.into:
        sums.zero_()
    for inputs, targets in ready:
        with torch.no_grad():
            for parameter, value in zip(part.net.parameters(), part.start, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.SGD(part.net.parameters(), lr=job.lr)
        for at in range(0, len(targets), job.batch):
            optimizer.zero_grad()
            loss(part.net(inputs[at : at + job.batch]), targets[at : at + job.batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            for sums, parameter in zip(part.into, part.net.parameters(), strict=True):
                sums.add_(parameter, alpha=len(targets))


def _fork(parts: list[Part]) -> list[Connection]:
    for tensor in (*parts[0].start, *(sums for part in parts for sums in part.into)):
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    pipes = []
    for number, part in enumerate(parts):
        here, there = mp.Pipe()
        places = range(number, part.data.job.cohort, len(parts))
        mp.get_context("fork").Process(target=_serve, args=(part, places, there), daemon=True).start()
        pipes.append(here)
    return pipes


def _serve(part: Part, places: range, pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        ready = part.gather(pipe.recv(), places)
        pipe.send(None)
        pipe.recv()
        train(part.data.job, part, ready)
        pipe.send(None)


def main(folder: str, out: str, processes: str, dtype: str = "float32") -> None:
    """Run, and report."""
    data = read(Path(folder))
    clock, parameters = run(data, int(processes), getattr(torch, dtype))
    report(Path(out), clock, dict(zip(data.parameters, (tensor.numpy() for tensor in parameters), strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
