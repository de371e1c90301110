"""Closing a phase over contributions on disk: fold, step and write by slices, in the memory of a few chunks.

The order of the sums is the canonical one: fold blocks cut from the sorted asked cohort, contributions inside a block
in the order of names, block sums merged in the order of blocks. Since every operation acts on each element alone, the
bits are those that a simulation gets, which folds whole tensors with the same functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

import torch

from foedus.aggregation.aggregator import Sums
from foedus.coordinator.part_writer import PartWriter, Window
from foedus.domain.codec import CHUNK, TensorFile
from foedus.domain.header import TensorSpec
from foedus.domain.machine import cores
from foedus.domain.plain import Json
from foedus.domain.round import Aggregate, PhaseOrder, PhaseRecord, Receipt
from foedus.domain.tree import Parts, Slice, State, Tensors, dtypes, slices, specs, to_bytes
from foedus.engine.round import close_phase, current_phase
from foedus.strategies.strategy import Phase, Strategy

ALIGNMENT = 64
"""Slices begin at multiples of this. In bfloat16 torch rounds the rest of a vector otherwise than whole vectors, so an
element must stand in the same lane as when its tensor is worked on whole (on one intra-op thread)."""

MODEL = "model"

THREADS = 4
"""More threads than this wait for Python's lock, which torch lets go of only while it computes."""

COLUMNS = 1 << 21
"""Elements, of all contributions together, that a thread has in memory where they are aggregated by columns. To sort a
column takes about five times their bytes."""

Place = Callable[[], Path]
"""Names a new file, on the disk where it is to stay."""


@dataclass(frozen=True)
class Given:
    """A contribution that is counted: where its update is (none in a phase without tensors), and what it weighs."""

    update: Path | None
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Closing:
    """All that closing a phase needs: the state (a file per part, and data), and what was contributed, by client.

    ``factors``: what staleness leaves of each client's update; none where the schedule knows no staleness.
    """

    strategy: Strategy
    order: PhaseOrder
    parts: Mapping[str, Path]
    data: Mapping[str, Json]
    given: Mapping[str, Given]
    receipts: tuple[Receipt, ...]
    factors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Closed:
    """The state after: its data, and a new file for each part that was written (none where no tensor moved)."""

    data: Mapping[str, Json]
    record: PhaseRecord
    parts: Mapping[str, Path] = field(default_factory=dict)


def fold_and_close(closing: Closing, place: Place, limit: int = CHUNK) -> Closed:
    """Fold the contributions, take the strategy's step, and write the new parts into files that ``place`` names.

    A phase whose schema has no tensors (a test) leaves the parts as they are. ``limit`` bounds the elements in memory,
    and is a multiple of :data:`ALIGNMENT`.

    Raises:
        IntegrityError: where a file is not what its row said.
    """
    assert limit % ALIGNMENT == 0, "slices would not have the bits of whole tensors"
    phase = current_phase(closing.strategy, State({}, closing.data))
    count = len(closing.given)
    if not phase.schema.parts or not count:
        state, record = _take_step(closing, {part: {} for part in closing.parts}, Aggregate({}, count))
        return Closed(state.data, record)
    with ExitStack() as stack:
        parts = {part: stack.enter_context(TensorFile(path)) for part, path in closing.parts.items()}
        updates = {
            client: stack.enter_context(TensorFile(given.update))
            for client, given in closing.given.items()
            if given.update is not None
        }
        targets = {part: place() for part in parts}
        writers = {
            part: stack.enter_context(PartWriter(targets[part], {n: e.spec for n, e in file.header.entries.items()}))
            for part, file in parts.items()
        }
        sizes = {name: entry.elements for file in parts.values() for name, entry in file.header.entries.items()}
        closed: list[Closed] = []

        def close_window(window: Window) -> None:
            aggregate = fold(phase, closing, updates, window)
            tensors = {part: _cut(file, window) for part, file in parts.items()}
            state, record = _take_step(closing, tensors, aggregate)
            for part, writer in writers.items():
                writer.write(state.tensors[part], window)
            closed[:] = [Closed(state.data, record, targets)]

        on_threads(close_window, windows(sizes, _bounded(phase, count, limit)))
    return closed[0]


def _bounded(phase: Phase, count: int, limit: int) -> int:
    """How many elements a window may have, where its rows of all contributions are in memory at once."""
    if not phase.aggregator.columns:
        return limit
    return min(limit, max(ALIGNMENT, COLUMNS // count // ALIGNMENT * ALIGNMENT))


def begin(
    strategy: Strategy, model: Path, place: Place, limit: int = CHUNK
) -> tuple[Mapping[str, Json], dict[str, Path]]:
    """The state at the beginning, as :meth:`Strategy.init` makes it of the model in a file: its data and its parts.

    The model part is the given file itself; further parts (moments) are written into files that ``place`` names,
    slice by slice.
    """
    with ExitStack() as stack:
        file = stack.enter_context(TensorFile(model))
        shapes = {name: entry.spec for name, entry in file.header.entries.items()}
        nothing = {name: torch.empty(0, dtype=dtypes[spec.dtype]) for name, spec in shapes.items()}
        plain = strategy.init(nothing)
        targets = {part: place() for part in plain.tensors if part != MODEL}
        writers = {
            part: stack.enter_context(PartWriter(target, _shaped(plain.tensors[part], shapes)))
            for part, target in targets.items()
        }
        sizes = {name: entry.elements for name, entry in file.header.entries.items()}
        for window in windows(sizes, limit) if writers else ():
            state = strategy.init({**nothing, **_cut(file, window)})
            for part, writer in writers.items():
                writer.write(state.tensors[part], window)
    return plain.data, {MODEL: model, **targets}


def fold(phase: Phase, closing: Closing, updates: Mapping[str, TensorFile], window: Window) -> Aggregate:
    """The cohort's aggregate in one window: every update is read once, all into the same memory, near the processor."""
    sums: Sums = phase.aggregator.zero()
    pieces, factors = _pieces(phase, window), closing.factors
    room = memoryview(bytearray(max((place.stop for _, place in pieces), default=0)))
    for block in closing.order.blocks:
        block_sums = phase.aggregator.zero()
        for client in block:
            if client in updates:
                update = phase.transform.decode(_cut_update(updates[client], phase, pieces, room))
                if (factor := factors.get(client, 1.0)) != 1.0:
                    update = phase.schema.discounted(update, factor)
                block_sums = phase.aggregator.add(block_sums, update, closing.given[client].weights)
        sums = phase.aggregator.merge(sums, block_sums) if sums.count else block_sums
    counted = tuple(factors[client] for client in sorted(closing.given) if factors)
    return Aggregate(phase.aggregator.finish(sums), sums.count, counted)


def on_threads(work: Callable[[Window], None], each: Iterable[Window]) -> None:
    """Do the work of every window, a thread to a core, in no order; after an error no further one is begun."""
    waiting, lock, stop = iter(each), Lock(), Event()
    threads = min(cores(), THREADS)

    def take() -> None:
        while not stop.is_set():
            with lock:
                window = next(waiting, None)
            if window is None:
                return
            try:
                work(window)
            except BaseException:
                stop.set()
                raise

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(take) for _ in range(threads)]:
            done.result()


def digest_of_model(path: Path, limit: int = CHUNK) -> str:
    """:func:`foedus.domain.tree.model_digest` of the tensors in a file, read slice by slice."""
    whole = hashlib.sha256()
    with TensorFile(path) as file:
        for name in sorted(file.header.entries, key=lambda name: name.encode()):
            entry = file.header.entries[name]
            shape = ",".join(str(size) for size in entry.spec.shape)
            whole.update(f"{name}\0{entry.spec.dtype}\0{shape}\0".encode())
            for piece in slices({("", name): entry.elements}, limit):
                whole.update(to_bytes(file.read(name, piece.start, piece.stop)))
    return whole.hexdigest()


def windows(sizes: Mapping[str, int], limit: int) -> Iterator[Window]:
    """Cut tensors of these numbers of elements into windows of at most ``limit`` elements; small ones go together.

    >>> list(windows({"a": 2, "b": 1, "c": 5}, 4))
    [{'a': (0, 2), 'b': (0, 1)}, {'c': (0, 4)}, {'c': (4, 5)}]
    """
    window: dict[str, tuple[int, int]] = {}
    filled = 0
    for piece in slices({("", name): size for name, size in sizes.items()}, limit):
        count = piece.stop - piece.start
        if window and filled + count > limit:
            yield window
            window, filled = {}, 0
        window[piece.name] = (piece.start, piece.stop)
        filled += count
    if window:
        yield window


def _take_step(closing: Closing, tensors: Parts, aggregate: Aggregate) -> tuple[State, PhaseRecord]:
    state = State(tensors, closing.data)
    return close_phase(closing.strategy, state, closing.order, aggregate, closing.receipts)


def _cut(file: TensorFile, window: Window) -> dict[str, torch.Tensor]:
    """The window's ranges of a part's tensors; a tensor that is there whole keeps its shape."""
    entries = file.header.entries
    return {name: _shape(file, name, file.read(name, *span)) for name, span in window.items() if name in entries}


def _pieces(phase: Phase, window: Window) -> list[tuple[Slice, slice]]:
    """What an update has in a window, and the bytes of the fold's memory that each is read into, one after another."""
    pieces, at = list[tuple[Slice, slice]](), 0
    for part, spec in phase.schema.parts.items():
        for name, (start, stop) in window.items():
            if name in spec.tensors:
                end = at + (stop - start) * dtypes[spec.tensors[name].dtype].itemsize
                pieces.append((Slice(part, name, start, stop), slice(at, end)))
                at = -(-end // ALIGNMENT) * ALIGNMENT
    return pieces


def _cut_update(
    file: TensorFile, phase: Phase, pieces: Sequence[tuple[Slice, slice]], room: memoryview
) -> dict[str, dict[str, torch.Tensor]]:
    """The window's ranges of an update, read into ``room``."""
    update: dict[str, dict[str, torch.Tensor]] = {part: {} for part in phase.schema.parts}
    for piece, place in pieces:
        name = f"{piece.part}/{piece.name}"
        update[piece.part][piece.name] = _shape(file, name, file.read(name, piece.start, piece.stop, into=room[place]))
    return update


def _shape(file: TensorFile, name: str, tensor: torch.Tensor) -> torch.Tensor:
    entry = file.header.entries[name]
    return tensor.reshape(entry.spec.shape) if tensor.numel() == entry.elements else tensor


def _shaped(part: Tensors, shapes: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """A part's tensors have the shapes of the model's, and dtypes of their own."""
    return {name: TensorSpec(shapes[name].shape, spec.dtype) for name, spec in specs(part).items()}
