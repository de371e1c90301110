"""A run's folder: everything that a run leaves on disk, in simulation and live, readable without foedus.

It is an observer: rounds are appended as they are recorded, and every other file appears whole, by rename. With the
plan's files and a checkpoint in it, a simulation goes on from the folder alone, here or on another machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from foedus import __version__
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConflictError, StorageError
from foedus.domain.names import NAME
from foedus.domain.plain import Json
from foedus.domain.plan import BESIDE, PlanBundle, check_names
from foedus.domain.round import RoundRecord
from foedus.domain.run import RunSpec
from foedus.domain.tree import Tensors
from foedus.engine.history import History, as_columns
from foedus.engine.json_text import to_json
from foedus.engine.records import read_records
from foedus.engine.report import Report, report_html

RUN, ROUNDS, SUMMARY, MODEL = "run.toml", "rounds.jsonl", "summary.json", "model.safetensors"
ENVIRONMENT, LOG, REPORT, CURVES = "environment.json", "log.jsonl", "report.html", "curves.png"
ALIGNMENT = "alignment.json"
FILES = (RUN, ROUNDS, SUMMARY, MODEL, ENVIRONMENT, LOG, REPORT)
PLAN, CHECKPOINTS, SAVED = "plan", "checkpoints", "saved"
FOLDERS = (PLAN, CHECKPOINTS, SAVED)
MARKS = (ENVIRONMENT, ROUNDS)
"""A folder that has both is a run's; its files may be replaced where that was asked for."""


def choose_folder(out: Path | None, name: str, now: datetime, *, force: bool = False) -> Path:
    """An empty folder for a run: ``out`` exactly, or ``runs/<name>-<time>`` under the current one.

    With ``force`` an earlier run's files in ``out`` are removed, and nothing else.

    Raises:
        ConflictError: ``folder_in_use`` where ``out`` holds anything else, ``run_exists`` where it holds a run.
        StorageError: ``folder_unwritable``.
    """
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            _clear(out, force)
            return out
        stem = f"{name if NAME.fullmatch(name) else 'run'}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        for attempt in range(1, 1000):
            path = Path("runs") / (stem if attempt == 1 else f"{stem}-{attempt}")
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.mkdir()
                return path
    except OSError as error:
        raise _unwritable(out or Path("runs"), error) from error
    raise ConflictError("folder_in_use", f"runs/{stem} is there already.", "", "Name a folder with --out.")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return all((folder / mark).is_file() for mark in MARKS)


def _clear(folder: Path, force: bool) -> None:
    if any(folder.iterdir()) and not is_run(folder):
        raise ConflictError(
            "folder_in_use",
            f"{folder} is not empty, and not a run's folder.",
            "What is in it would be mixed with the run's files.",
            "Name a folder that is empty, or is not there yet.",
        )
    if is_run(folder) and not force:
        raise ConflictError(
            "run_exists",
            f"{folder} holds a run already.",
            "Its rounds, model and report would be replaced.",
            f"Go on with it (`foedus simulate --resume {folder}`), replace it (`--force`), or name another folder.",
        )
    os.close(_lock(folder))
    for name in (*FILES, CURVES, ALIGNMENT):
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder for one process, which loses it when it dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConflictError(
            "run_in_progress", f"Another process is running the run in {folder}.", "", "Wait for it, or end it."
        ) from error
    return descriptor


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        "folder_unwritable", f"{path} cannot be written.", error.strerror or "", "Choose another folder."
    )


@dataclass(frozen=True)
class Position:
    """How much of rounds.jsonl there was after a round: bytes, and their SHA-256."""

    size: int = 0
    digest: str = hashlib.sha256().hexdigest()


class RunFolder:
    """Writes a run's files into ``path``: an empty folder, or, without ``spec``, that of a run that is taken up again.

    ``facts`` are said of it from the beginning.

    Raises:
        ConflictError: ``run_in_progress`` where another process has the folder.
        PlanError: ``plan_malformed`` where a file of the plan has a name that cannot be kept.
    """

    def __init__(
        self,
        path: Path,
        spec: RunSpec | None,
        bundle: PlanBundle | None = None,
        facts: Mapping[str, Json] | None = None,
    ) -> None:
        self.path = path
        self.history = History()
        self._release = weakref.finalize(self, os.close, _lock(path))
        self._facts: dict[str, Json] = {}
        self._rounds, self._size = hashlib.sha256(), 0
        self._positions = {0: Position()}
        if spec is None:
            return
        if bundle is not None:
            self._keep(bundle)
            spec = spec.model_copy(update={"plan": _kept_as(bundle)})
        self._write(ROUNDS, b"")
        self._ask(spec, {**(facts or {}), **({"plan": bundle.digest} if bundle else {})})
        self.log("started")

    def go_on(self, spec: RunSpec, facts: Mapping[str, Json], until: Position) -> None:
        """Take a run up after ``until``: what rounds.jsonl has beyond it is removed, what it has before it is known.

        Raises:
            IntegrityError: ``rounds_malformed``.
        """
        path = self.path / ROUNDS
        os.truncate(path, until.size)
        with path.open("rb") as file:
            self._rounds, self._size = hashlib.file_digest(file, "sha256"), until.size
        for record in read_records(path):
            self.history.add(record)
        self._positions = {len(self.history.rows): until}
        (self.path / SUMMARY).unlink(missing_ok=True)
        self._ask(spec, facts)
        self.log("resumed", after=len(self.history.rows))

    def _ask(self, spec: RunSpec, facts: Mapping[str, Json]) -> None:
        """Say what is run, and how that is known to be the same later on, also if it is killed on the way."""
        content = tomli_w.dumps(_without_none(spec.model_dump(mode="json"))).encode()
        digest = hashlib.sha256(content).hexdigest()
        if (self.path / ENVIRONMENT).exists():
            self.environment({**facts, "next": digest})
        self._write(RUN, content)
        self._facts.pop("next", None)
        self.environment({**facts, "run": digest})

    def environment(self, facts: Mapping[str, Json]) -> None:
        """Say where the run runs, and how: kernel, executor, workers, the reason. What was said before stays."""
        self._facts.update(facts)
        self._write(ENVIRONMENT, _document({**versions(), **self._facts}))

    def aligned(self, alignment: bytes) -> None:
        """Keep how the sites' tables are read, which the run stays with when it goes on."""
        self._write(ALIGNMENT, alignment)
        self.environment({"alignment": hashlib.sha256(alignment).hexdigest()})

    @property
    def saved(self) -> Path:
        """Where checkpointers keep models."""
        return self.path / SAVED

    def position(self, rounds: int) -> Position | None:
        """How much of rounds.jsonl, which is on disk then, the first ``rounds`` rounds are: known for the last two."""
        with (self.path / ROUNDS).open("rb") as file:
            os.fsync(file.fileno())
        return self._positions.get(rounds)

    def round(self, record: RoundRecord) -> None:
        """Append a round's record."""
        self.history.add(record)
        self._advance(record.round, self._append(ROUNDS, {**vars(record), **as_columns(self.history.rows[-1])}))
        failures = {r.client: r.failure for phase in record.phases for r in phase.receipts if r.failure}
        self.log("round", round=record.round, model=record.model, seconds=record.seconds, failures=dict(failures))

    def finished(self, model: Tensors) -> None:
        """Store the final model under its plain names."""
        self._write(MODEL, encode_tensors(model))

    def end(self, summary: Mapping[str, Json], report: Report | None) -> None:
        """Write the summary and, where there is something to show, the report; the run is over."""
        if report is not None:
            self._write(REPORT, report_html(report).encode())
        self._write(SUMMARY, _document(summary))
        self.log(str(summary["status"]))
        self._release()

    def log(self, event: str, **facts: Json) -> None:
        """Append a line to the run's log."""
        self._append(LOG, {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts})

    def _write(self, name: str, content: bytes) -> None:
        temporary = self.path / f".{name}.part"
        try:
            temporary.write_bytes(content)
            temporary.replace(self.path / name)
        except OSError as error:
            raise _unwritable(self.path / name, error) from error

    def _append(self, name: str, value: Mapping[str, object]) -> bytes:
        line = (to_json(value) + "\n").encode()
        try:
            with (self.path / name).open("ab") as file:
                file.write(line)
        except OSError as error:
            raise _unwritable(self.path / name, error) from error
        return line

    def _advance(self, number: int, line: bytes) -> None:
        self._rounds.update(line)
        self._size += len(line)
        before = {at: position for at, position in self._positions.items() if at == number - 1}
        self._positions = {**before, number: Position(self._size, self._rounds.hexdigest())}

    def _keep(self, bundle: PlanBundle) -> None:
        """Store the plan's files, byte for byte."""
        check_names(bundle.files)
        for name, content in bundle.files.items():
            (self.path / PLAN / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / PLAN / name).write_bytes(content)


def _kept_as(bundle: PlanBundle) -> str:
    """What the folder's own run.toml calls the plan: its file, or the folder of its files."""
    return f"{PLAN}/{bundle.entry}" if set(bundle.files) <= {bundle.entry, *BESIDE} else PLAN


def versions() -> dict[str, Json]:
    """What a run depends on, for bug reports and reproduction."""
    return {
        "foedus": __version__,
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "numpy": importlib.metadata.version("numpy"),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "executable": Path(sys.executable).name,
    }


def _document(value: Mapping[str, Json]) -> bytes:
    return (to_json(value, indent=2) + "\n").encode()


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: a key without a value is left out."""
    kept = {key: value for key, value in table.items() if value is not None}
    return {key: _toml(value) for key, value in kept.items()}


def _toml(value: Any) -> Any:
    if isinstance(value, list):
        return [_toml(each) for each in value]
    return _without_none(value) if isinstance(value, dict) else value
