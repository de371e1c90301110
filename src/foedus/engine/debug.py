"""``--debug``: what a client was doing when it failed, found by doing its work once more, stage by stage.

A client's work follows from (seed, round, client), so it fails again in the same place, whatever kernel it failed
under. It is done again in a process of its own where the platform can fork, because what ran out of memory once may do
so again. Runs without failures, and runs without ``--debug``, pay nothing.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from foedus.data.dataset import Columns, Examples
from foedus.domain.errors import FoedusError
from foedus.domain.rng import Randomness
from foedus.domain.round import Ask, Broadcast
from foedus.domain.tree import Parts, State
from foedus.engine.client import ClientTask, part_of, run_client
from foedus.engine.executors import Executor
from foedus.engine.forking import listen, undisturbed
from foedus.engine.kernels import BlockResult, ClientSource, Outcome, PhaseWork
from foedus.engine.prepare import Prepared
from foedus.engine.workers import available
from foedus.local.kinds import objective_of
from foedus.local.work import Batch, Carry, Finished, LocalWork, Objective, WorkBuilder
from foedus.transforms.transform import Transform

SHOWN = 10
"""Failures of a run that are looked into; later ones are only recorded."""

SEARCHED = 32
"""Clients that are tried where something failed for all of them together."""

TENSORS = 8
"""Tensors that are described of each argument."""

PATIENCE = 120.0
"""Seconds that a client has to fail again."""


@dataclass(frozen=True)
class Scene:
    """Where clients' work comes from, and where what was found is said."""

    prepared: Prepared
    source: ClientSource
    columns: Mapping[str, Columns]
    say: Callable[[str], None]


class DebuggingExecutor:
    """Does what the executor inside it does, and looks into what fails."""

    def __init__(self, inside: Executor, scene: Scene) -> None:
        self.name = inside.name
        self._inside, self._scene, self._left = inside, scene, SHOWN
        self._told: set[tuple[str, str]] = set()

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """The same results."""
        try:
            for result in self._inside.run(work, blocks):
                self._look(work, {receipt.client: receipt.failure for receipt in result.receipts})
                yield result
        except FoedusError as error:
            self._search(work, [client for block in blocks for client in block], error)
            raise

    def outcomes(self, work: PhaseWork, clients: tuple[str, ...]) -> Iterator[Outcome]:
        """The same outcomes."""
        try:
            for outcome in self._inside.outcomes(work, clients):
                self._look(work, {outcome.client: outcome.failure})
                yield outcome
        except FoedusError as error:
            self._search(work, clients, error)
            raise

    def close(self) -> None:
        """Close what is inside."""
        self._inside.close()

    def _look(self, work: PhaseWork, failures: Mapping[str, str]) -> None:
        for client, failure in failures.items():
            if failure and self._left and (client, failure) not in self._told:
                self._left -= 1
                self._told.add((client, failure))
                _, told = examine(self._scene, work, client)
                self._scene.say(f"debug: {failure}\n{told}")

    def _search(self, work: PhaseWork, clients: Sequence[str], error: FoedusError) -> None:
        """Find the first client for whom the same happens."""
        for client in clients[:SEARCHED]:
            code, told = examine(self._scene, work, client)
            if code == error.code:
                self._scene.say(f"debug: {error.what}\n{told}")
                return


def examine(scene: Scene, work: PhaseWork, client: str) -> tuple[str, str]:
    """The code with which a client's work fails now (empty where it does not), and what there is to say about it."""
    if not available():
        return _examined(scene, work, client)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_apart, args=(scene, work, client, there), daemon=True)
    with undisturbed():
        process.start()
    there.close()
    try:
        found: tuple[str, str] = here.recv() if here.poll(PATIENCE) else ("", f"It had not failed in {PATIENCE:.0f} s.")
    except EOFError:
        process.join()
        found = "worker_died", f"  The process that did the work of {client} again died too (exit {process.exitcode})."
    finally:
        here.close()
        process.kill()
        process.join()
    return found


def _apart(scene: Scene, work: PhaseWork, client: str, pipe: Connection) -> None:
    listen()
    torch.set_num_threads(1)
    pipe.send(_examined(scene, work, client))


def _examined(scene: Scene, work: PhaseWork, client: str) -> tuple[str, str]:
    notes = _Notes()
    plan, seed = scene.prepared.plan, scene.prepared.spec.seed
    rng = Randomness(work.seed, work.order.round, client)
    lines = [
        f"  client     {client}, round {work.order.round}, phase {work.order.phase}",
        f"  options    {json.dumps(scene.prepared.spec.strategy.model_dump(mode='json'))}",
    ]
    try:
        notes.enter("prepare", columns=scene.columns[client])
        data = scene.source(client)
        part = part_of(work.order.phase, data)
        lines.append(f"  examples   {_tensors(part.tensors)}")
        phase = replace(
            work.phase, work=_watched(work.phase.work, notes), transform=_noted(work.phase.transform, notes)
        )
        task = ClientTask(phase, objective_of(plan, seed), work.broadcast)
        ask = Ask(client, work.order.round, work.order.phase)
        run_client(task, ask, data, work.states.get(client, State()), rng)
    except Exception as error:
        code = error.code if isinstance(error, FoedusError) else "internal"
        lines += [f"  stage      {notes.stage}", *(f"  {name:<9}  {text}" for name, text in notes.arguments.items())]
        return code, "\n".join([*lines, *notes.diverged, *_trace(error)])
    return "", "\n".join([*lines, "  Done again, it did not fail: the plan's work does not follow from seed and data."])


class _Notes:
    """The stage that the work is in, with its arguments in words, and when it diverged."""

    def __init__(self) -> None:
        self.stage, self.arguments, self.steps = "", dict[str, str](), 0
        self.diverged = list[str]()

    def enter(self, stage: str, **arguments: Mapping[str, Tensor]) -> None:
        self.stage = stage
        self.arguments = {name: _tensors(tensors) for name, tensors in arguments.items()}

    def stepped(self, metrics: Mapping[str, Tensor]) -> None:
        bad = [name for name, value in metrics.items() if not math.isfinite(float(value))]
        if bad and not self.diverged:
            self.diverged.append(f"  diverged   {bad[0]} was {float(metrics[bad[0]])} first in {self.stage}")


def _watched(builder: WorkBuilder, notes: _Notes) -> WorkBuilder:
    """The same work, which notes where it is."""

    def build(objective: Objective) -> LocalWork:
        local = builder(objective)

        def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
            notes.enter("init", **{f"{part}": tensors for part, tensors in broadcast.tensors.items()})
            return local.init(broadcast, state, rng)

        def step(carry: Carry, batch: Batch) -> tuple[Carry, Mapping[str, Tensor]]:
            notes.steps += 1
            notes.enter(f"step {notes.steps}", batch=Examples(batch.inputs, batch.targets).tensors, carry=_flat(carry))
            carry, metrics = local.step(carry, batch)
            notes.stepped(metrics)
            return carry, metrics

        def finish(broadcast: Broadcast, carry: Carry) -> Finished:
            notes.enter("finish", carry=_flat(carry))
            finished = local.finish(broadcast, carry)
            notes.enter("check", **finished.update)
            return finished

        return replace(local, init=init, step=step, finish=finish)

    return build


def _noted(transform: Transform, notes: _Notes) -> Transform:
    def client(state: State, update: Parts, rng: Randomness) -> tuple[Parts, State]:
        notes.enter("transform", **update)
        return transform.client(state, update, rng)

    return replace(transform, client=client)


def _flat(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """A carry's tensors by their paths."""
    if isinstance(tree, Tensor):
        return {prefix or "value": tree}
    if isinstance(tree, Mapping):
        inner = (_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in tree.items())
        return {name: tensor for part in inner for name, tensor in part.items()}
    return {}


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    shown = [f"{name} {_words(tensor)}" for name, tensor in list(tensors.items())[:TENSORS]]
    more = [f"and {len(tensors) - TENSORS} more"] if len(tensors) > TENSORS else []
    return "; ".join([*shown, *more])


def _words(tensor: Tensor) -> str:
    """Shape, dtype, and the least and the greatest value.

    >>> _words(torch.tensor([1.0, float("nan"), 3.0]))
    '[3] float32 1 … 3, 1 not finite'
    """
    kind = f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.dtype is torch.bool or tensor.is_complex() or not tensor.numel():
        return kind
    finite = tensor[torch.isfinite(tensor)]
    bad = tensor.numel() - finite.numel()
    span = f" {float(finite.min()):.6g} … {float(finite.max()):.6g}" if finite.numel() else ""
    return f"{kind}{span}{f', {bad} not finite' if bad else ''}"


def _trace(error: BaseException) -> list[str]:
    """The error, and the plan's own lines that led to it (where there are none, the last lines of all)."""
    cause = error
    while cause.__cause__:
        cause = cause.__cause__
    frames = traceback.extract_tb(cause.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith("<plan>/")]
    lines = [f"  {type(cause).__name__}: {cause}"]
    for frame in own or list(frames)[-3:]:
        name = frame.filename.removeprefix("<plan>/").rpartition("/foedus/")[2]
        lines.append(f"    {name}, line {frame.lineno}, in {frame.name}: {(frame.line or '').strip()}")
    return lines
