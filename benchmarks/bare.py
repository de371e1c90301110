"""The baselines: FedAvg in a bare PyTorch loop, in one process or two, and a float64 reference.

One model, ``torch.optim.SGD`` and a weighted sum; the cohort's examples are put in the order of their batches before
the clock starts. Two processes share the global model and one sum each in shared memory.
"""

from __future__ import annotations

import time
from collections import Counter
from multiprocessing.connection import Connection

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from benchmarks.jobs import Job, clients, cohorts, in_order, loss, model, prepared
from foedus.data.dataset import Examples

Order = list[tuple[str, int]]


def run(job: Job, processes: int, dtype: torch.dtype = torch.float32) -> tuple[list[float], dict[str, Tensor]]:
    """Train; returns seconds per round and the final parameters."""
    torch.set_num_threads(1)
    start = prepared(job).model
    parameters = [tensor.to(dtype) for tensor in start.values()]
    sums = [[torch.zeros_like(p) for p in parameters] for _ in range(processes)]
    nets = [model(job).to(dtype) for _ in range(processes)]
    clients(job)
    pipes = _workers(job, nets, parameters, sums) if processes > 1 else []
    seconds, epochs = [], Counter[str]()
    for cohort in cohorts(job):
        order = [(client, epochs[client]) for client in cohort]
        epochs.update(cohort)
        shares = [order[at::processes] for at in range(processes)]
        ready = [_gather(job, shares[0], dtype)] if not pipes else []
        for pipe, share in zip(pipes, shares, strict=False):
            pipe.send(share)
        for pipe in pipes:
            pipe.recv()
        began = time.perf_counter()
        if pipes:
            for pipe in pipes:
                pipe.send(None)
            for pipe in pipes:
                pipe.recv()
        else:
            train(job, nets[0], parameters, ready[0], sums[0])
        total = sum(len(clients(job)[client]) for client in cohort)
        for at, parameter in enumerate(parameters):
            parameter.copy_(torch.stack([part[at] for part in sums]).sum(0) / total if pipes else sums[0][at] / total)
        seconds.append(time.perf_counter() - began)
    return seconds, dict(zip(start, parameters, strict=True))


def train(job: Job, net: nn.Module, start: list[Tensor], ready: list[Examples], into: list[Tensor]) -> None:
    """The weighted sum of the clients' models."""
    for part in into:
        part.zero_()
    for examples in ready:
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), start, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.SGD(net.parameters(), lr=job.lr)
        for at in range(0, len(examples), job.batch):
            optimizer.zero_grad()
            loss(net(examples.inputs[at : at + job.batch]), examples.targets[at : at + job.batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            for part, parameter in zip(into, net.parameters(), strict=True):
                part.add_(parameter, alpha=len(examples))


def _gather(job: Job, order: Order, dtype: torch.dtype) -> list[Examples]:
    found = [in_order(job, client, epoch) for client, epoch in order]
    return [Examples(examples.inputs.to(dtype), examples.targets) for examples in found]


def _workers(job: Job, nets: list[nn.Module], start: list[Tensor], sums: list[list[Tensor]]) -> list[Connection]:
    for tensor in (*start, *(part for parts in sums for part in parts)):
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    pipes = []
    for net, into in zip(nets, sums, strict=True):
        here, there = mp.Pipe()
        args = (job, net, start, into, there)
        mp.get_context("fork").Process(target=_serve, args=args, daemon=True).start()
        pipes.append(here)
    return pipes


def _serve(job: Job, net: nn.Module, start: list[Tensor], into: list[Tensor], pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        ready = _gather(job, pipe.recv(), torch.float32)
        pipe.send(None)
        pipe.recv()
        train(job, net, start, ready, into)
        pipe.send(None)
