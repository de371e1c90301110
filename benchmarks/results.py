"""What was measured, kept as data (results.json) and as a page made of them (RESULTS.md); nothing is typed by hand.

A section that is measured again replaces the one that was there; on another machine or with other versions the page
begins anew.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks import rounds
from benchmarks.definitions import JOBS
from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.runners import AUTO, RUNNERS
from foedus.domain.machine import cores

FOLDER = Path(__file__).parent
PAGE, DATA = "RESULTS.md", "results.json"

FLUTE = (
    "FLUTE's authors report 3:20 min for FLUTE and 30:14 min for Flower 1.0.0, on CPUs that they do not name, with a "
    "test every 20 rounds (https://github.com/microsoft/msrflute). Here clients have the same number of examples "
    "each, and nothing is tested; `wall s` is what to set beside."
)

Section = Mapping[str, Any]
"""When and of which commit something was measured, and what: ``{"date": …, "commit": …, "data": …}``."""

Lines = Sequence[Sequence[str]]


def section(data: Mapping[str, object]) -> Section:
    """What was measured just now."""
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": _commit(), "data": data}


def write(found: Mapping[str, Section], folder: Path = FOLDER) -> None:
    """Keep what was found, and write the page."""
    now, data = {"machine": machine(), "versions": versions()}, folder / DATA
    kept = json.loads(data.read_text("utf-8")) if data.is_file() else {}
    known = kept["sections"] if all(kept.get(key) == value for key, value in now.items()) else {}
    kept = {**now, "peers": peers(), "sections": {**known, **found}}
    data.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    (folder / PAGE).write_text(page(kept), "utf-8")


def page(kept: Mapping[str, Any]) -> str:
    """The page of what was kept."""
    parts = [
        "# Results",
        "`make bench` measures this and `.venv/bin/python -m benchmarks --write` writes it: do not edit it. "
        "[README.md](README.md) says what is measured and how to read it.",
        "\n".join(
            f"- **{key}**: {value}" for key, value in (kept["machine"] | kept["versions"] | kept["peers"]).items()
        ),
    ]
    known = [name for name in SHOWN if name in kept["sections"]]
    parts.extend(_in_short({name: kept["sections"][name]["data"] for name in known if name in JOBS}))
    for name in known:
        one = kept["sections"][name]
        title, tables = SHOWN[name]
        parts.append(f"## {title}")
        parts.append(f"Measured {one['date']}, commit {one['commit']}{_turns(one['data'])}.")
        parts.extend(_markdown(table) if isinstance(table, list) else str(table) for table in tables(one["data"]))
    return "\n\n".join(parts) + "\n"


def text(name: str, one: Section) -> str:
    """One section for a terminal."""
    title, tables = SHOWN[name]
    parts = [_plain(table) if isinstance(table, list) else str(table) for table in tables(one["data"])]
    return "\n".join([f"{title}{_turns(one['data'])}", *parts, ""])


def machine() -> dict[str, str]:
    """The processor, the cores that may be used, memory and system."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in _lines(info) if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": str(cores()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Python, and what decides the arithmetic."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("foedus", "torch", "numpy")
    }


def peers() -> dict[str, str]:
    """The peers and their versions, or that they are not installed."""
    return {name: each.version() for name, each in ENVIRONMENTS.items()}


def _in_short(jobs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How many times as fast foedus is with its defaults: seconds per round, and the whole process."""
    rows = {name: {row["runner"]: row for row in data["rows"] if row["round"]} for name, data in jobs.items()}
    rows = {name: found for name, found in rows.items() if AUTO in found}
    others = [runner.name for runner in RUNNERS if not runner.name.startswith("foedus")]
    others = [name for name in others if any(name in found for found in rows.values())]
    if not others:
        return []
    table = [
        [each, *(_times(found.get(each), found[AUTO], what) for found in rows.values() for what in ("round", "wall"))]
        for each in others
    ]
    head = ["against", *(f"{name}, {what}" for name in rows for what in ("round", "whole process"))]
    said = "foedus with its defaults is so many times as fast, turn by turn (above 1, foedus is faster):"
    return ["## In short", said, _markdown([head, *table])]


def _times(other: Mapping[str, Any] | None, ours: Mapping[str, Any], what: str) -> str:
    found = rounds.ratio(other[what], ours[what]) if other else None
    return "–" if found is None else f"{found:.2f}"


def _job(data: Mapping[str, Any]) -> list[object]:
    if data["skipped"]:
        return [f"Not measured: {data['skipped']}"]
    job = data["job"]
    sizes = f"{job['low']}–{job['high']}" if job["low"] != job["high"] else str(job["low"])
    widths = "-".join(map(str, (784, *job["hidden"], job["classes"])))
    network = (
        "CNN 32-64" if job["convolutions"] else f"MLP {widths}" if job["hidden"] else f"logistic regression {widths}"
    )
    said = (
        f"{job['clients']:,} clients with {sizes} examples, {network}, {job['cohort']} clients a round, "
        f"{job['rounds']} rounds, batches of {job['batch']}, SGD at {job['lr']}."
    )
    table = [rounds.HEAD, *rounds.lines([rounds.Row(**row) for row in data["rows"]])]
    return [said, *([FLUTE] if job["name"] == "flute" else []), table]


def _techniques(data: Mapping[str, Any]) -> list[object]:
    """A row for each way, a column for each job; what a job has no use for is left out."""
    jobs = data["jobs"]
    names = list(dict.fromkeys(name for found in jobs.values() for name in found))
    rows = [(name, *(f"{found[name]:.2f}" if name in found else "–" for found in jobs.values())) for name in names]
    failed = [f"{name}: failed: {why}" for name, why in data["failures"].items()]
    said = "One process, a cohort's training; how many times as fast as a loop by hand, in seconds of the processor."
    return [said, [("kernel", *jobs), *rows], *failed]


def _averaging(data: Mapping[str, Any]) -> list[object]:
    head = ("way", "GB/s read", "peak, models", "peak MiB", "largest error")
    rows = [
        (
            row["way"],
            f"{row['rate']:.1f}",
            f"{row['peak'] / data['model_mib']:.2f}",
            f"{row['peak']:.0f}",
            f"{row['error']:.0e}",
        )
        for row in data["rows"]
    ]
    failed = [f"{name}: failed: {why}" for name, why in data["failures"].items()]
    return [f"{data['models']} models of {data['model_mib']:.0f} MiB.", [head, *rows], *failed]


def _growth(data: Mapping[str, Any]) -> list[object]:
    head = ("case", "population", "cohort", "rounds", "round ms", "start-up s", "peak MiB", "RSS after rounds")
    rows = []
    for row in data["rows"]:
        first = (row["case"], f"{row['population']:,}", f"{row['cohort']:,}", f"{row['rounds']:,}")
        if "failure" in row:
            rows.append((*first, "–", "–", "–", f"failed: {row['failure']}"))
            continue
        looks = ", ".join(f"{int(at):,}: {mib:.0f}" for at, mib in row["memory"].items())
        rows.append((*first, f"{1000 * row['round']:.1f}", f"{row['startup']:.2f}", f"{row['peak']:.0f}", looks))
    return [[head, *rows]]


def _live(data: Mapping[str, Any]) -> list[object]:
    return [
        [
            ("measure", "value"),
            *((key, f"{value:.3g}" if value < 10 else f"{value:,.0f}") for key, value in data.items()),
        ]
    ]


def _nodes(data: Mapping[str, Any]) -> list[object]:
    """A column for each database."""
    failed = [f"{row['database']}: failed: {row['failure']}" for row in data["rows"] if "failure" in row]
    rows = [row for row in data["rows"] if "failure" not in row]
    if not rows:
        return failed
    names = [name for name in rows[0] if name != "database"]
    lines = [(name, *(f"{row[name]:.3g}" if row[name] < 10 else f"{row[name]:,.0f}" for row in rows)) for name in names]
    return [[("measure", *(row["database"] for row in rows)), *lines], *failed]


def _overhead(data: Mapping[str, Any]) -> list[object]:
    head = ("case", "sandbox", "bare ms", "trained ms", "first round ms", "later rounds ms", "worst ms", "overhead ms")
    rows = [
        (
            row["case"],
            "yes" if row["sandbox"] == "bubblewrap" else "no",
            *(f"{1000 * row[key]:,.0f}" for key in ("bare_s", "trained_s", "first_s", "later_s", "worst_s")),
            f"{1000 * (row['later_s'] - row['bare_s']):,.0f}",
        )
        for row in data["rows"]
    ]
    return [[head, *rows]]


SHOWN = {
    "j1": ("J1: cross-device, tiny MLP", _job),
    "j2": ("J2: small CNN", _job),
    "j3": ("J3: cross-silo MLP", _job),
    "flute": ("FLUTE's published job: logistic regression on MNIST", _job),
    "techniques": ("What each technique of kernel graph gives", _techniques),
    "averaging": ("The averaging itself", _averaging),
    "growth": ("Growth", _growth),
    "blobs": ("Live: a 200 MB model to four nodes and back", _live),
    "streams": ("Live: a 2 GB model to eight nodes and back, from and to files", _live),
    "live": ("Live: a round's cost beside its training", _overhead),
    "nodes": ("Live: 2,000 nodes on one coordinator process", _nodes),
}


def _turns(data: Mapping[str, Any]) -> str:
    return f", n = {data['n']}" if "n" in data else ""


def _markdown(table: Lines) -> str:
    head, *rows = table
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _plain(table: Lines) -> str:
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def _commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
