"""Whole federations under one seed each: faults of every kind, the laws after every commit, the undisturbed model.

``FOEDUS_SEED=17 pytest tests/cluster -k one_seed`` lives through one seed again and prints what happened;
``FOEDUS_SEEDS=500 make soak`` tries so many instead of ten thousand.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.story import Scenery, Told, build_scenery, tell

QUICK, AT_ONCE = 200, 10
SOAK = int(os.environ.get("FOEDUS_SEEDS") or 10_000)
ONE = os.environ.get("FOEDUS_SEED")
AGAIN = "FOEDUS_SEED={} python -m pytest tests/cluster -k one_seed"

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of processes that were killed


@pytest.fixture(scope="module")
def scenery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenery]:
    """What every seed begins with; the nodes' logs would drown everything else."""
    logging.disable(logging.ERROR)
    try:
        yield build_scenery(tmp_path_factory.mktemp("scenery"))
    finally:
        logging.disable(logging.NOTSET)


def _lived_through(scenery: Scenery, seed: int) -> Told:
    """A seed's end, which has to be the undisturbed run's."""
    try:
        told = tell(scenery, seed)
        assert told.view.status == "completed"
        assert told.view.model_digest == scenery.models[scenery.prepared.spec.rounds]
        assert told.laws.rounds == {told.view.id: scenery.models}
    except BaseException as error:
        error.add_note(f"again with: {AGAIN.format(seed)}")
        raise
    return told


@pytest.mark.parametrize("first", range(0, QUICK, AT_ONCE))
def test_whatever_fails_the_run_ends_with_the_undisturbed_model(scenery: Scenery, first: int) -> None:
    """Cases 2, 3, 6 and 19: uploads break off and go on, messages come twice and late, clocks jump; D7 too."""
    for seed in range(first, first + AT_ONCE):
        _lived_through(scenery, seed)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_so_it_is_for_many_seeds(scenery: Scenery) -> None:
    requests = seconds = 0.0
    for seed in range(QUICK, QUICK + SOAK):
        told = _lived_through(scenery, seed)
        requests, seconds = requests + told.requests, seconds + told.room.loop.time()
        if seed % 100 == 0:
            gc.collect()
    print(
        f"\nsimulated cluster: {SOAK} seeds, {seconds / 3600:.0f} simulated hours, {requests:.0f} requests, 0 failures"
    )


@pytest.mark.skipif(ONE is None, reason="name a seed with FOEDUS_SEED=N")
def test_one_seed(tmp_path: Path) -> None:
    told = _lived_through(build_scenery(tmp_path), int(ONE or 0))
    print("\n".join(told.room.trace))


def test_a_seed_tells_the_same_story_each_time_and_in_every_process(tmp_path: Path) -> None:
    code = (
        "import json, logging, pathlib, sys; logging.disable(logging.ERROR)\n"
        "from tests.cluster.story import build_scenery, tell\n"
        "scenery = build_scenery(pathlib.Path(sys.argv[1]))\n"
        "print(json.dumps([[told.room.digest(), told.requests] for told in (tell(scenery, n) for n in (3, 7, 3))]))\n"
    )
    stories = []
    for salt in ("1", "2"):
        folder = tmp_path / salt
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": "src:."}
        said = subprocess.run(
            [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True, check=True
        )
        stories.append(json.loads(said.stdout))
    first, second = stories
    assert first == second
    assert first[0] == first[2] != first[1]
