"""A command plan: a program in any language that is started as ``COMMAND VERB IN OUT``, and speaks in files.

VERB is ``init``, ``train`` or ``evaluate``. IN has ``model.safetensors``, ``data.csv`` (or ``data.safetensors``),
``options.json``, ``call.json`` with round and seed, and ``state.safetensors`` where the client's last round left one.
OUT gets ``model.safetensors`` and ``result.json``; docs/guides/plans.md has the whole. What is started is a copy of the
plan's own bytes, which nobody may write to. What the program leaves running is ended with it; what has put itself into
a session of its own lives, in a sandbox, until the work process ends.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from foedus.data.dataset import Columns
from foedus.domain.codec import TensorFile, encode_tensors
from foedus.domain.errors import ClientWorkError, ConfigError, IntegrityError, PlanError
from foedus.domain.plain import Json
from foedus.domain.plan import PlanBundle, write_files
from foedus.domain.table import Name, Table, Text, validate
from foedus.domain.tree import Tensors, size_in_bytes
from foedus.local.own import Fitted, Given, OwnPlan, result_refused
from foedus.local.plan_options import Check

PULSE = 0.2
"""Seconds between two looks at a program that works."""

STDERR_LIMIT = 4096
"""Bytes of what a program says that are kept, the last of them."""

RESULT_LIMIT = 64 << 10
STATE_LIMIT = 256 << 20
MODEL_LIMIT = 4 << 30
HEADER_ROOM = 8 << 20
"""Bytes that the head of a tensor file may take beside the elements."""


class CommandTable(Table):
    """plan.json. ``command``: program and arguments, from the plan's folder; ``seconds``: the longest it may take.

    ``data``: how the examples are written; ``metrics``: what ``evaluate`` gives beside the loss.
    """

    command: Annotated[list[Text], Field(min_length=1, max_length=100)]
    metrics: Annotated[dict[Name, Literal["max", "min"]], Field(default_factory=dict, max_length=100)]
    data: Literal["csv", "safetensors"] = "csv"
    seconds: Annotated[float, Field(gt=0, le=604800)] = 600.0


@dataclass(frozen=True)
class Program:
    """A command plan's program. ``folder``: a read-only copy of its files, where there is one already."""

    table: CommandTable
    bundle: PlanBundle
    folder: Path | None


def command_plan(bundle: PlanBundle, check: Check, folder: Path | None = None) -> OwnPlan:
    """The command plan of a bundle whose entry is plan.json.

    Raises:
        PlanError: ``plan_incomplete``.
    """
    try:
        table = validate(CommandTable, _json_object(bundle.files[bundle.entry]), bundle.entry)
    except (ValueError, RecursionError) as error:
        raise _incomplete(f"{bundle.entry} is not a JSON object") from error
    except ConfigError as error:
        raise _incomplete(error.what.rstrip(".")) from error
    if "loss" in table.metrics:
        raise _incomplete("`metrics` has no `loss`: it is always there")
    program = Program(table, bundle, folder)

    def make(seed: int, options: Mapping[str, Json]) -> Tensors:
        with _started(program, "init", Given({}, {}, options, seed=seed)) as out:
            return _read(out / "model.safetensors", MODEL_LIMIT)

    def train(given: Given) -> Fitted:
        with _started(program, "train", given) as out:
            model = _read(out / "model.safetensors", size_in_bytes(given.model) + HEADER_ROOM)
            there = (out / "state.safetensors").exists()
            state = _read(out / "state.safetensors", STATE_LIMIT) if there else {}
            result = _numbers(out / "result.json")
        if not {"loss"} <= set(result) <= {"loss", "weight"}:
            raise result_refused("result.json of train has `loss`, and if it likes `weight`")
        return Fitted(model, result["loss"], result.get("weight"), state)

    def measure(given: Given) -> Mapping[str, float]:
        with _started(program, "evaluate", given) as out:
            return _numbers(out / "result.json")

    return OwnPlan("command", make, train, measure, dict(table.metrics), check)


@contextlib.contextmanager
def _started(program: Program, verb: str, given: Given) -> Iterator[Path]:
    """Run the program once; what it wrote lies in the folder that this gives, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="foedus-") as name:
        scratch = Path(name)
        for folder in ("in", "out", "plan", "tmp"):
            (scratch / folder).mkdir()
        if program.folder is None:
            write_files(program.bundle, scratch / "plan")
        _write(scratch / "in", program.table.data, given)
        words = [*program.table.command, verb, str(scratch / "in"), str(scratch / "out")]
        _run(words, program.folder or scratch / "plan", scratch / "tmp", Watch(program.table.seconds, given.alive))
        yield scratch / "out"


@dataclass(frozen=True)
class Watch:
    """How long a program may take, in seconds, and what is called while it works."""

    seconds: float
    alive: Callable[[], None]


def _run(words: list[str], folder: Path, scratch: Path, watch: Watch) -> None:
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        **dict.fromkeys(("HOME", "TMPDIR"), str(scratch)),
        **dict.fromkeys(("LC_ALL", "LANG"), "C"),
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    if words[0].startswith("./"):  # where the program stands, whichever folder the platform looks in
        words = [str(folder / words[0]), *words[1:]]
    try:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ClientWorkError(
            "command_missing",
            f"The plan's command {words[0]!r:.80} cannot be started.",
            error.strerror or "",
            "Install it where the data are, or put it into the plan's folder and begin its name with ./",
        ) from error
    try:
        said = _watched(process, watch)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode != 0:
        ended = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise ClientWorkError("command_failed", f"The plan's command ended with {ended}.", said, "Mend the command.")


def _watched(process: subprocess.Popen[bytes], watch: Watch) -> str:
    """The last of what a program says until it ends."""
    pipe, said, ends = process.stdout, b"", time.monotonic() + watch.seconds
    assert pipe is not None
    saying = True
    while True:
        ended = process.poll() is not None
        if saying and select.select([pipe], [], [], 0 if ended else PULSE)[0]:
            chunk = os.read(pipe.fileno(), 1 << 16)
            saying, said = bool(chunk), (said + chunk)[-STDERR_LIMIT:]
        elif ended:
            return said.decode(errors="replace").strip()
        elif not saying:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PULSE)
        watch.alive()
        if time.monotonic() > ends:
            raise ClientWorkError(
                "command_timeout",
                f"The plan's command took longer than its {watch.seconds:g} seconds.",
                said.decode(errors="replace").strip(),
                "Let it do less in a round, or raise `seconds` in plan.json.",
            )


def _write(folder: Path, form: str, given: Given) -> None:
    (folder / "options.json").write_text(json.dumps(dict(given.options), sort_keys=True))
    (folder / "call.json").write_text(json.dumps({"round": given.round, "seed": given.seed}))
    tables = {"model": given.model, "state": given.state}
    if given.columns and form == "csv":
        _write_csv(folder / "data.csv", given.columns)
    elif given.columns:
        tables["data"] = given.columns
    for name, tensors in tables.items():
        if tensors:
            (folder / f"{name}.safetensors").write_bytes(encode_tensors(tensors))


def _write_csv(path: Path, columns: Columns) -> None:
    """A row per example under a header; a column of several numbers becomes ``NAME.0`` and so on."""
    names, values = list[str](), list[list[Any]]()
    for name, column in columns.items():
        plain = column.to(torch.uint8) if column.dtype == torch.bool else column
        flat = plain.reshape(len(plain), -1)
        names += [name] if plain.ndim == 1 else [f"{name}.{at}" for at in range(flat.shape[1])]
        values += flat.T.tolist()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*values, strict=True))


def _read(path: Path, limit: int) -> Tensors:
    try:
        with TensorFile(_whole(path, limit)) as file:
            return dict(file)
    except IntegrityError as error:
        raise result_refused(f"{path.name} is not a safetensors file: {error.why or error.what}") from error


def _numbers(path: Path) -> dict[str, float]:
    try:
        found = _json_object(_whole(path, RESULT_LIMIT).read_bytes())
    except (ValueError, RecursionError) as error:
        raise result_refused(f"{path.name} is not a JSON object") from error
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in found.values()):
        raise result_refused(f"{path.name} has something that is not a number")
    return {name: float(value) for name, value in found.items()}


def _whole(path: Path, limit: int) -> Path:
    """The path, if a file of at most so many bytes is there, and no link to one."""
    if path.is_symlink() or not path.is_file():
        raise result_refused(f"it left no file {path.name}")
    if path.stat().st_size > limit:
        raise result_refused(f"{path.name} has more than {limit} bytes")
    return path


def _json_object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _incomplete(why: str) -> PlanError:
    return PlanError(
        "plan_incomplete",
        f"The plan is incomplete: {why}.",
        'A command plan has a plan.json as {"command": ["sh", "work.sh"], "metrics": {"accuracy": "max"}}.',
        "Compare it with the plan that `foedus new --kind command DIR` makes.",
    )
