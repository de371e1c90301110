"""A run's folder: everything that a run leaves on disk, in simulation and live, readable without foedus.

It is an observer: rounds are appended as they are recorded, and every other file appears whole, by rename.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from foedus import __version__
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConflictError, StorageError
from foedus.domain.names import NAME
from foedus.domain.plain import Json
from foedus.domain.round import RoundRecord
from foedus.domain.run import RunSpec
from foedus.domain.tree import Tensors
from foedus.engine.history import History
from foedus.engine.json_text import to_json
from foedus.engine.report import Report, report_html

RUN, ROUNDS, SUMMARY, MODEL = "run.toml", "rounds.jsonl", "summary.json", "model.safetensors"
ENVIRONMENT, LOG, REPORT, CURVES = "environment.json", "log.jsonl", "report.html", "curves.png"
FILES = (RUN, ROUNDS, SUMMARY, MODEL, ENVIRONMENT, LOG, REPORT)
MARKS = (ENVIRONMENT, ROUNDS)
"""A folder that has both was a run's; its files may be replaced."""


def choose_folder(out: Path | None, name: str, now: datetime) -> Path:
    """An empty folder for a run: ``out`` exactly, or ``runs/<name>-<time>`` under the current one.

    Where ``out`` holds an earlier run's files, those are removed, and nothing else.

    Raises:
        ConflictError: ``folder_in_use`` where ``out`` holds anything else.
        StorageError: ``folder_unwritable``.
    """
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            _clear(out)
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


def _clear(folder: Path) -> None:
    if any(folder.iterdir()) and not all((folder / mark).is_file() for mark in MARKS):
        raise ConflictError(
            "folder_in_use",
            f"{folder} is not empty, and not a run's folder.",
            "What is in it would be mixed with the run's files.",
            "Name a folder that is empty, or is not there yet.",
        )
    for name in (*FILES, CURVES):
        (folder / name).unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        "folder_unwritable", f"{path} cannot be written.", error.strerror or "", "Choose another folder."
    )


class RunFolder:
    """Writes a run's files into ``path``, an empty folder."""

    def __init__(self, path: Path, spec: RunSpec) -> None:
        self.path = path
        self.history = History()
        self._write(RUN, tomli_w.dumps(_without_none(spec.model_dump(mode="json"))).encode())
        self._write(ROUNDS, b"")
        self.environment({})
        self.log("started")

    def environment(self, choice: Mapping[str, Json]) -> None:
        """Say where the run runs, and how: ``choice`` has kernel, executor, workers and the reason."""
        self._write(ENVIRONMENT, _document({**versions(), **choice}))

    def round(self, record: RoundRecord) -> None:
        """Append a round's record."""
        self.history.add(record)
        self._append(ROUNDS, {**asdict(record), "metrics": record.metrics})
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

    def _append(self, name: str, value: Mapping[str, object]) -> None:
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(to_json(value) + "\n")
        except OSError as error:
            raise _unwritable(self.path / name, error) from error


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
    return {key: _without_none(value) if isinstance(value, dict) else value for key, value in kept.items()}
