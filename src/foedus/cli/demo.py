"""``foedus demo``: a whole federation on this machine, and what it came for: the comparison of the models.

Five real processes (a coordinator and four nodes) over loopback; nothing else is needed, and none of them is left.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from foedus.cli.baselines import POOLED, baselines
from foedus.cli.data import HELD_OUT, write_parts
from foedus.cli.live import FACTS, close_live, follow, read_model
from foedus.cli.local_federation import LocalFederation, local_federation
from foedus.cli.new import scaffold
from foedus.cli.output import emit, json_option, say, table
from foedus.cli.progress import progress
from foedus.cli.run_submit import submission_of
from foedus.client import runs
from foedus.data.catalogue import federate
from foedus.domain.errors import RunFailedError
from foedus.domain.plain import Json
from foedus.engine.folder import CURVES, MODEL, REPORT, RunFolder, choose_folder
from foedus.engine.picture import curves_png
from foedus.engine.prepare import Prepared, prepare
from foedus.engine.results import recorded
from foedus.engine.simulate import HeldOut
from foedus.node import owner
from foedus.node.vault import PlanEntry
from foedus.sandbox.bubblewrap import unavailable
from foedus.wire.messages import RunView

NODES = ("north", "east", "south", "west")
TAG = "digits"
MEASURE = "accuracy"
DEADLINE = "60"
OFFER = 180.0
"""Seconds that a plan may take to reach a node."""


@click.command("demo")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The run's folder.")
@json_option
def command(rounds: int, out: Path | None) -> None:
    """Train digits with four nodes that keep their data, all on this machine, in under a minute.

    Ctrl-C stops it cleanly. Nothing listens beyond loopback, and nothing is downloaded.
    """
    began = time.monotonic()
    path = choose_folder(out, "demo", datetime.now(UTC), force=True)
    place = path / "federation"
    shutil.rmtree(place, ignore_errors=True)
    with local_federation(place) as federation:
        logging.basicConfig(filename=place / "demo.log", level=logging.INFO)
        demo = _Demo(_prepared(place, rounds), path, federation)
        summary = demo.run()
    summary["seconds"] = round(time.monotonic() - began, 1)
    emit(summary, _words(summary, path))


@dataclass(frozen=True)
class _Demo:
    prepared: Prepared
    path: Path
    federation: LocalFederation

    def run(self) -> dict[str, Json]:
        """Start everything, let the owners decide, follow the run, compare."""
        spec = self.prepared.spec
        folder = RunFolder(self.path, spec)
        with recorded(folder, spec, "demo"):
            self._start()
            with self.federation.connection() as connection:
                run = runs.submit(connection, submission_of(self.prepared))
                say(f"run {run.id} is submitted; it waits for the owners of the data to approve its plan\n")
                plans = {name: self._decide(name) for name in self.federation.homes}
                say("")
                with progress(spec.rounds) as observer:
                    view = follow(connection, run.id, [folder, observer])
                runs.download_model(connection, run.id, None, self.path / MODEL)
            return self._close(folder, view, plans)

    def _start(self) -> None:
        spec, place = self.prepared.spec, self.federation.folder
        files = write_parts(federate(spec, self.prepared.base), place / "parts")
        say("starting a coordinator and four nodes, each a process of its own …")
        self.federation.start_coordinator()
        say(f"coordinator on {self.federation.url}, with SQLite and a folder")
        if why := unavailable():
            say(f"no sandbox here, so each owner's policy lets plans run without one: {why}")
        parts = [(path, count) for path, count in files if path.stem != HELD_OUT]
        for name, (part, count) in zip(NODES, parts, strict=True):
            self.federation.start_node(name, part, TAG)
            say(f"node {name:<6} holds {count:>4} digits as {part.stem}; they stay on it")
        say(
            "".join(f"{count} digits are held out; nobody trains on them\n" for p, count in files if p.stem == HELD_OUT)
        )

    def _decide(self, name: str) -> PlanEntry:
        """What the owner of a node does: look at the plan that arrived, and approve its digest."""
        home, until = self.federation.homes[name], time.monotonic() + OFFER
        while not (plans := owner.list_plans(home)):
            self.federation.check()
            if time.monotonic() > until:
                raise RunFailedError("demo_stuck", f"No plan reached {name}.", "", f"See {self.federation.folder}.")
            time.sleep(0.1)
        plan, files = owner.show_plan(home, plans[0].digest)
        listed = ", ".join(f"{file} ({len(text.splitlines())} lines)" for file, text in files.items())
        decided = owner.approve(home, plan.digest)
        say(f"owner of {name:<6} sees plan {plan.digest[:12]}: {listed} → {decided.state}")
        return decided

    def _close(self, folder: RunFolder, view: RunView, plans: Mapping[str, PlanEntry]) -> dict[str, Json]:
        spec, base = self.prepared.spec, self.prepared.base
        held_out = HeldOut(self.prepared, federate(spec, base).held_out).measure(read_model(self.path))
        say("for comparison: each node alone, and all data in one place …")
        others = baselines(self.prepared)
        labels = dict(zip(sorted(others.keys() - {POOLED}), (f"{name} alone" for name in NODES), strict=True))
        rows = [(labels.get(name, "all data in one place"), metrics[MEASURE]) for name, metrics in others.items()]
        folder.environment({**FACTS, "id": view.id})
        summary = close_live(folder, spec, view, held_out, [("federated", held_out[MEASURE]), *rows])
        (self.path / CURVES).write_bytes(curves_png(folder.history.rows))
        return {**summary, "approvals": {name: plan.digest for name, plan in plans.items()}}


def _prepared(place: Path, rounds: int) -> Prepared:
    """The scaffold's run, as the researcher of the demo has it."""
    project = place / "project"
    scaffold(project)
    return prepare(project / "run.toml", {"name": "demo", "rounds": str(rounds), "schedule.deadline": DEADLINE})


def _words(summary: Mapping[str, Json], path: Path) -> str:
    comparison = summary["comparison"]
    assert isinstance(comparison, dict)
    rows = [[f"{float(str(value)):.1%}".rjust(8), label] for label, value in comparison.items()]
    lines = [
        f"\nRight on held-out digits after {summary['rounds']} rounds:",
        table(["accuracy", "model"], rows),
        f"\nmodel digest  {summary['model_digest']}",
        f"run's folder  {path}",
        f"plot          {path / CURVES} (and {path / REPORT})",
        f"took          {summary['seconds']} s",
        f"\nNext: {_to_the_path()}foedus new hello && foedus simulate hello/run.toml",
    ]
    return "\n".join(lines)


def _to_the_path() -> str:
    """What has to be typed first where the shell would not find ``foedus``."""
    return "" if shutil.which("foedus") else f". {Path(sys.executable).parent / 'activate'} && "
