"""What a run came to, as its summary, its report and its last words: the same for simulated and live runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from foedus.domain.errors import FoedusError
from foedus.domain.names import NAME
from foedus.domain.plain import Json
from foedus.domain.run import RunSpec, run_file
from foedus.engine.choice import Choice, Engine
from foedus.engine.folder import REPORT, RunFolder, choose_folder
from foedus.engine.history import History
from foedus.engine.prepare import Prepared
from foedus.engine.report import Report

FAILURES = 5
"""Clients that the last words name of those that failed."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``held_out`` has loss and metrics on the part that belongs to nobody, where there is one."""

    run: str
    status: str
    model_digest: str
    seconds: float
    held_out: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Json] = field(default_factory=dict)
    comparison: Sequence[tuple[str, float]] = ()

    def final(self, history: History) -> dict[str, float]:
        """The last round's metrics, and those on the held-out part as ``held_out/accuracy``."""
        last = history.rows[-1].metrics if history.rows else {}
        return {**last, **{f"held_out/{name}": value for name, value in self.held_out.items()}}


def how_it_ran(choice: Choice, stopped: str = "") -> dict[str, Json]:
    """The facts of a simulation's end: kernel, executor and why; why it stopped before its last round, if it did."""
    facts: dict[str, Json] = {"kernel": choice.kernel, "executor": choice.executor, "workers": choice.workers}
    return {**facts, "reason": choice.reason, **({"stopped": stopped} if stopped else {})}


def run_name(spec: RunSpec, run_toml: Path) -> str:
    """What a run is called: its ``name``, or that of the folder that run.toml is in."""
    name = spec.name or run_file(run_toml).resolve().parent.name
    return name if NAME.fullmatch(name) else "run"


def begin_folder(prepared: Prepared, name: str, out: Path | None, asked: Engine, *, force: bool = False) -> RunFolder:
    """The folder of a simulation that begins, which has what :func:`foedus.engine.resume.take_up` needs.

    Raises:
        ConflictError, StorageError: as :func:`foedus.engine.folder.choose_folder`.
    """
    facts: dict[str, Json] = {
        "name": name,
        "base": str(prepared.base.resolve()),
        "directions": {**prepared.manifest.metrics},
        "asked": asdict(asked),
    }
    path = choose_folder(out, name, datetime.now(UTC), force=force)
    folder = RunFolder(path, prepared.spec, prepared.bundle, facts)
    if prepared.alignment is not None:
        folder.aligned(prepared.alignment.to_bytes())
    return folder


def close_folder(folder: RunFolder, spec: RunSpec, outcome: Outcome) -> dict[str, Json]:
    """Write a run's summary and report; returns the summary."""
    summary = _summary(folder, outcome)
    folder.end(summary, _report(spec, folder.history, outcome) if folder.history.rows else None)
    return summary


@contextmanager
def recorded(folder: RunFolder, spec: RunSpec, name: str) -> Iterator[None]:
    """Have the folder say how a run ended that was interrupted or failed."""
    try:
        yield
    except BaseException as error:
        status = "failed" if isinstance(error, Exception) else "interrupted"
        code = error.code if isinstance(error, FoedusError) else "internal" if status == "failed" else status
        seconds = sum(row.seconds for row in folder.history.rows)
        digest = folder.history.rows[-1].model if folder.history.rows else ""
        close_folder(folder, spec, Outcome(name, status, digest, seconds, facts={"error": code}))
        raise


def last_words(summary: Mapping[str, Json], folder: Path) -> str:
    """The lines that a run ends with on a terminal."""
    metrics = summary["metrics"]
    shown = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items()) if isinstance(metrics, dict) else ""
    early = [f"stopped early: {summary['stopped']}"] if "stopped" in summary else []
    failed = [f"failed: {text}" for text in failures] if isinstance(failures := summary.get("failures"), list) else []
    return "\n".join(
        [
            *early,
            *failed,
            f"{summary['status']}, rounds {summary['rounds']}: {shown}",
            f"model   {summary['model_digest']}",
            f"folder  {folder}",
            f"report  {folder / REPORT}",
        ]
    )


def _failures(history: History) -> list[str]:
    """The clients that failed most often, a line each."""
    worst = sorted(history.dropouts.items(), key=lambda item: (-item[1].times, item[0]))
    lines = [
        f"{client} {drop.times} time{'s' if drop.times > 1 else ''}, the last in round {drop.round}: {drop.reason}"
        for client, drop in worst[:FAILURES]
    ]
    return lines + ([f"and {len(worst) - FAILURES} other clients"] if len(worst) > FAILURES else [])


def _summary(folder: RunFolder, outcome: Outcome) -> dict[str, Json]:
    rows = folder.history.rows
    return {
        "run": outcome.run,
        "status": outcome.status,
        "rounds": len(folder.history.rows),
        "metrics": {**outcome.final(folder.history)},
        "model_digest": outcome.model_digest,
        "seconds": round(outcome.seconds, 3),
        **({"virtual_seconds": clock} if (clock := rows[-1].virtual_time if rows else 0.0) else {}),
        **({"failures": [*failures]} if (failures := _failures(folder.history)) else {}),
        "folder": str(folder.path),
        **outcome.facts,
        **({"comparison": dict(outcome.comparison)} if outcome.comparison else {}),
    }


def _report(spec: RunSpec, history: History, outcome: Outcome) -> Report:
    clocked = spec.time is not None or spec.schedule.name != "synchronous"
    held_out = {f"held-out {name}": f"{value:.4f}" for name, value in outcome.held_out.items()}
    facts = {
        "status": outcome.status,
        "rounds": str(len(history.rows)),
        "strategy": spec.strategy.name,
        "clients a round": history.asked,
        **held_out,
        "seconds": f"{outcome.seconds:.1f}",
        **({"virtual seconds": f"{history.rows[-1].virtual_time:.1f}"} if clocked else {}),
        "model": outcome.model_digest[:16],
    }
    subtitle = f"{spec.strategy.name} on {spec.data.name}, seed {spec.seed}"
    return Report(outcome.run, subtitle, facts, history, outcome.comparison, notes=_notes(outcome), clocked=clocked)


def _notes(outcome: Outcome) -> list[str]:
    """Why the run ended before its last round, how it was computed, and why so."""
    facts = outcome.facts
    early = f"Stopped early: {facts['stopped']}." if "stopped" in facts else ""
    how = f"How it was computed: {facts['reason']}." if "reason" in facts else ""
    return [text for text in (early, how) if text]
