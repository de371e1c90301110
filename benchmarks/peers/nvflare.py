"""NVFlare on a job: its simulator with the recipe of FedAvg, where every client takes part in every round.

A round ends when its last client has trained, by the clients' own time stamps.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe  # type: ignore[import-not-found]
from nvflare.recipe.sim_env import SimEnv  # type: ignore[import-not-found]

from benchmarks.exported import Clock, Exported, read, report
from benchmarks.peers import nvflare_client

GLOBAL_MODEL = "FL_global_model.pt"


def run(data: Exported, folder: Path) -> tuple[Clock, dict[str, torch.Tensor]]:
    """Train; returns the times and the final parameters."""
    job, clock, stamps = data.job, Clock(), folder / "stamps"
    os.environ["BENCH_STAMPS"] = str(stamps)
    recipe = FedAvgRecipe(
        name="bench",
        model=nvflare_client.Network(),
        min_clients=job.clients,
        num_rounds=job.rounds,
        train_script=nvflare_client.__file__,
    )
    clock.start()
    recipe.execute(SimEnv(num_clients=job.clients, num_threads=job.clients, workspace_root=str(folder)))
    ends: dict[int, float] = defaultdict(float)
    for line in stamps.read_text().splitlines():
        at, end = line.split()
        ends[int(at)] = max(ends[int(at)], float(end))
    marks = [clock.began, *(ends[at] for at in sorted(ends))]
    clock.rounds = [after - before for before, after in itertools.pairwise(marks)]
    (path,) = folder.rglob(GLOBAL_MODEL)
    saved = torch.load(path, weights_only=True)
    return clock, saved.get("model", saved)


def main(folder: str, out: str) -> None:
    """Run, and report."""
    data = read(Path(folder))
    with tempfile.TemporaryDirectory() as place:
        clock, parameters = run(data, Path(place))
        names = zip(data.parameters, parameters.values(), strict=True)
        report(Path(out), clock, {name: torch.as_tensor(tensor).numpy() for name, tensor in names})


if __name__ == "__main__":
    main(*sys.argv[1:])
