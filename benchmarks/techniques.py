"""What each technique of kernel ``graph`` gives: a cohort's training in one process, with one more of them at a time.

``python -m benchmarks.techniques JOB TURNS`` measures one job. Seconds are of the processor and not of the clock, so
they hold on a busy machine too. Ways take turns; ratios are by turn, to a loop written by hand.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from benchmarks.definitions import JOBS
from benchmarks.jobs import SEED, export, federation, plan, prepared
from benchmarks.networks import loss, model
from benchmarks.processes import measure
from benchmarks.rounds import Options
from foedus.data.batching import permutation
from foedus.data.dataset import ClientData, Examples
from foedus.domain.round import Broadcast, PhaseOrder
from foedus.engine.choice import SAMPLED
from foedus.engine.graph import GraphKernel
from foedus.engine.kernels import EagerKernel, Kernel, PhaseWork
from foedus.engine.proof import Case, prove
from foedus.engine.recipe import Recipe
from foedus.strategies.strategy import Phase

BARE = "a loop by hand"


def run(options: Options) -> dict[str, object]:
    """Each job's ways: how many times as fast as the loop by hand."""
    rows: dict[str, Mapping[str, float]] = {}
    failures = {}
    for job in ("j1", "j2", "j3"):
        measured = measure([sys.executable, "-m", "benchmarks.techniques", job, str(max(options.repeat, 3))])
        if measured.failure:
            failures[job] = measured.failure
        else:
            rows[job] = measured.said
    return {"n": max(options.repeat, 3), "jobs": rows, "failures": failures}


def ways(kernel: GraphKernel, seed: int, case: Case) -> dict[str, Kernel]:
    """The kernels to compare: ``eager``, then ``graph`` with one technique more each time."""
    proven = kernel.recipe
    plain = Recipe(1, proven.padded, proven.rows, proven.kept, block=proven.block)
    stacked = replace(plain, stack=proven.stack)
    still = replace(stacked, still=proven.still)
    factored = replace(still, factored=proven.factored)
    ahead = replace(factored, inputs=proven.inputs)
    sent = replace(ahead, other=proven.other)
    steps = {
        "traced, fused, a client at a time": plain,
        "and stacked": stacked,
        "and idle clients stepped along": still,
        "and weights as factors": factored,
        "and products with inputs ahead": ahead,
        "and large products by oneDNN": sent,
        "and large weights on the left": replace(sent, turned=proven.turned),
        "and channels last": proven,
    }
    made: dict[str, Kernel] = {"kernel eager": EagerKernel(case.plan, seed)}
    before = None
    for name, recipe in steps.items():
        if recipe != before:  # a technique that this job has no use for is left out
            made[name] = GraphKernel(case.plan, seed, recipe)
        before = recipe
    return made


def main(name: str, turns: str) -> None:
    """Measure a job, and print the ratios."""
    torch.set_num_threads(1)
    job, ready = JOBS[name], prepared(JOBS[name])
    data = export(job)
    columns = federation(data).clients
    names = tuple(federation(data).names[at] for at in data.cohorts[0])
    clients = {each: _client(each, columns[each]["inputs"], columns[each]["targets"]) for each in names}
    state = ready.strategy.init(ready.model)
    phase = ready.strategy.phase(state)
    assert isinstance(phase, Phase)
    order = PhaseOrder(1, phase.name, names)
    work = PhaseWork(order, phase, Broadcast({"model": state.tensors["model"]}), {}, SEED)
    case = Case(plan(job), work, names[:SAMPLED], clients.__getitem__, len(names), 2)
    proven, reason = prove(case)
    if proven is None:
        raise SystemExit(reason)
    timed: dict[str, Callable[[], object]] = {BARE: _by_hand(job.name, ready.model, clients)}
    for way, kernel in ways(proven, SEED, case).items():
        timed[way] = _folding(kernel, work, clients.__getitem__)
    seconds: dict[str, list[float]] = {way: [] for way in timed}
    for turn in range(int(turns) + 1):
        for way, go in timed.items():
            began = time.process_time()
            go()
            if turn:
                seconds[way].append(time.process_time() - began)
    ratios = {
        way: statistics.median(base / each for base, each in zip(seconds[BARE], taken, strict=True))
        for way, taken in seconds.items()
    }
    print(json.dumps(ratios))


def _client(name: str, inputs: torch.Tensor, targets: torch.Tensor) -> ClientData:
    examples = Examples(inputs, targets)
    return ClientData(name, examples, examples.take(slice(0)))


def _folding(kernel: Kernel, work: PhaseWork, source: Callable[[str], ClientData]) -> Callable[[], object]:
    return lambda: [kernel.fold(work, block, source) for block in kernel.blocks(work, work.order.blocks)]


def _by_hand(name: str, start: Mapping[str, torch.Tensor], clients: Mapping[str, ClientData]) -> Callable[[], object]:
    """One model, ``torch.optim.SGD`` and a weighted sum, as in ``benchmarks/bare.py``, on batches in the same order."""
    job, net = JOBS[name], model(JOBS[name])
    orders = {each: permutation(SEED, each, 0, len(data.train)) for each, data in clients.items()}
    shuffled = [data.train.take(orders[each]) for each, data in clients.items()]
    sums = [torch.zeros_like(parameter) for parameter in net.parameters()]

    def train() -> None:
        for examples in shuffled:
            with torch.no_grad():
                for parameter, value in zip(net.parameters(), start.values(), strict=True):
                    parameter.copy_(value)
            optimizer = torch.optim.SGD(net.parameters(), lr=job.lr)
            for at in range(0, len(examples), job.batch):
                batch = examples.take(slice(at, at + job.batch))
                optimizer.zero_grad()
                loss(net(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                for into, parameter in zip(sums, net.parameters(), strict=True):
                    into.add_(parameter, alpha=len(examples))

    return train


if __name__ == "__main__":
    main(*sys.argv[1:])
