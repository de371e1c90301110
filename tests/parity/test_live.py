"""The same plan, live: a real coordinator and four real nodes end with the bits of the simulation.

One federation is shared by all of these; each run has its own plan, approved by every owner.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foedus.client import runs
from foedus.client.recording import recording
from foedus.domain.codec import TensorFile
from foedus.domain.errors import DataError
from foedus.domain.tree import model_digest
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare, prepare_spec
from foedus.engine.replay import replay
from foedus.engine.simulate import client_data, simulate
from tests.federation import LocalFederation, start_federation, stop, until
from tests.plans import BATCHNORM, DIGITS, DRAWING, DROPOUT, FROZEN, SERVERS, prepared, spec

EAGER = Engine("eager", "inline")
ONE = {"cohort": {"size": 1, "population": 4}}
"""For what the coordinator alone does: one client a round."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"fedavg-{name}": (DIGITS, {"strategy": {"name": "fedavg", "local": {"lr": 0.1}, "server": server}, **ONE})
       for name, server in SERVERS.items()},
    "batchnorm": (BATCHNORM, {}),
    "dropout": (DROPOUT, {}),
    "frozen": (FROZEN, {}),
    "momentum, two epochs": (
        DIGITS,
        {"strategy": {"name": "fedavg", "local": {"lr": 0.05, "momentum": 0.9, "epochs": 2, "weight_decay": 0.01}}},
    ),
    "adam kept, a line over steps, random numbers of Python and NumPy": (
        DRAWING,
        {
            "strategy": {
                "name": "fedavg",
                "local": {
                    "lr": 0.01,
                    "optimizer": "adam",
                    "keep_optimizer": True,
                    "lr_schedule": {"name": "linear", "start_factor": 0.1, "total_iters": 20, "over": "steps"},
                },
            },
            "rounds": 3,
        },
    ),
    "part of the population": (DIGITS, {"cohort": {"size": 2, "population": 4}, "rounds": 4}),
    "rare tests": (DIGITS, {"test": {"every": 2, "ratio": 0.3}, "rounds": 3}),
    "median": (DIGITS, {"strategy": {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": {"name": "median"}}}),
    "trimmed mean": (
        BATCHNORM,
        {"strategy": {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": {"name": "trimmed_mean", "trim": 0.25}}},
    ),
    "a buffer for all": (DIGITS, {"schedule": {"name": "buffered", "buffer": 4}, "rounds": 3}),
    "cyclic": (DIGITS, {"schedule": {"name": "cyclic"}, "cohort": {"size": 1, "population": 4}, "rounds": 5}),
    "validation": (DIGITS, {"test": {"every": 2, "ratio": 0.1, "validation": 0.3}, "rounds": 3}),
}  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Four nodes with the four parts of the digits example."""
    folder = tmp_path_factory.mktemp("federation")
    with start_federation(folder, prepare(Path("examples/digits/run.toml"))) as running:
        yield running


@pytest.mark.parametrize(("plan", "changes"), CASES.values(), ids=CASES.keys())
def test_live_gives_the_bits_of_the_simulation(
    plan: str, changes: dict[str, Any], federation: LocalFederation, tmp_path: Path
) -> None:
    ready = prepared(tmp_path, plan, **changes)
    expected = simulate(ready, EAGER)
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    assert view.model_digest == expected.model_digest
    with federation.connection() as connection:
        listed = runs.rounds(connection, run).rounds
        runs.download_model(connection, run, None, tmp_path / "model.safetensors")
        runs.download_model(connection, run, 1, tmp_path / "first.safetensors")
    assert [record.model for record in listed] == [record.model for record in expected.rounds]
    for live, simulated in zip(listed, expected.rounds, strict=True):
        assert [phase.asked for phase in live.phases] == [phase.asked for phase in simulated.phases]
        assert live.metrics == pytest.approx(simulated.metrics, rel=1e-12)
    with TensorFile(tmp_path / "model.safetensors") as model, TensorFile(tmp_path / "first.safetensors") as first:
        assert model_digest(dict(model)) == expected.model_digest
        assert model_digest(dict(first)) == expected.rounds[0].model


def test_the_digits_example_gives_its_digest_live(federation: LocalFederation) -> None:
    ready = prepare(Path("examples/digits/run.toml"))
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    assert federation.finish(run).model_digest == simulate(ready, EAGER).model_digest


@pytest.mark.parametrize("depth", ["function", "command"])
def test_plans_that_train_by_themselves_give_their_digest_live(depth: str, federation: LocalFederation) -> None:
    """scikit-learn, and a shell with awk, in the sandbox."""
    ready = prepare(Path(f"examples/{depth}/run.toml"), {"data.held_out": "0.2", "rounds": "2"})
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    view, expected = federation.finish(run), simulate(ready, EAGER)
    assert (view.status, view.reason, view.model_digest) == ("completed", "", expected.model_digest)
    with federation.connection() as connection:
        listed = runs.rounds(connection, run).rounds
    for live, simulated in zip(listed, expected.rounds, strict=True):
        assert live.metrics == pytest.approx(simulated.metrics, rel=1e-12)
        assert not any(receipt.failure for phase in live.phases for receipt in phase.receipts)


FAILING = """set -eu
if [ "$1" = init ]; then
    printf '\\067\\0\\0\\0\\0\\0\\0\\0%s' '{"w":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}' > "$TMPDIR/model"
    head -c 16 /dev/zero >> "$TMPDIR/model"; cp "$TMPDIR/model" "$3/model.safetensors"; exit
fi
printf '{"loss": 0.5}' > "$3/result.json"
[ "$1" = train ] || exit 0
for file in work.sh more; do
    if (echo x > $file) 2>/dev/null || (chmod u+w . && echo x > $file) 2>/dev/null; then
        printf '{"loss": 2}' > "$3/result.json"  # the plan's files could be written to
    fi
done
case $(($(wc -l < "$2/data.csv") - 1)) in
FIRST) echo "a value of mine" >&2; exit 7 ;;
SECOND) sleep 600 & wait ;;
esac
cp "$2/model.safetensors" "$3/model.safetensors"
"""


def test_commands_that_fail_are_failed_contributions_with_codes_of_their_own(
    federation: LocalFederation, tmp_path: Path
) -> None:
    base = prepare(Path("examples/digits/run.toml"))
    sizes = {name: len(data.train) for name, data in client_data(base).items()}
    assert len(set(sizes.values())) == 4
    first, second, *others = sorted(sizes)
    script = FAILING.replace("FIRST", str(sizes[first])).replace("SECOND", str(sizes[second]))
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text('{"command": ["sh", "work.sh"], "seconds": 3}')
    (tmp_path / "plan" / "work.sh").write_text(script)
    ready = prepare_spec(spec(plan="plan", strategy={"name": "fedavg"}, rounds=1), tmp_path)
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    with federation.connection() as connection:
        (record,) = runs.rounds(connection, run).rounds
    failures = {receipt.client: receipt.failure for receipt in record.phases[0].receipts}
    assert failures[first].startswith("command_failed") and failures[second].startswith("command_timeout")
    assert [failures[name] for name in others] == ["", ""]
    assert "of mine" not in str(failures) and record.phases[0].metrics["loss"] == 0.5
    log = (federation.home(first) / "logs").rglob("*")
    assert any("a value of mine" in path.read_text() for path in log if path.is_file())


REPLAYED: dict[str, dict[str, Any]] = {
    "buffered": {"schedule": {"name": "buffered", "buffer": 2}, "cohort": {"size": 3, "population": 4}, "rounds": 5},
    "buffer of one": {
        "schedule": {"name": "buffered", "buffer": 1, "selector": "round_robin"},
        "strategy": {"name": "fedasync", "local": {"lr": 0.1}},
        "cohort": {"size": 3, "population": 4},
        "rounds": 6,
    },
    "timed": {"schedule": {"name": "timed", "every": 0.7}, "cohort": {"size": 3, "population": 4}, "rounds": 3},
    "over-selection": {"cohort": {"size": 2, "over_selection": 1.5, "population": 4}, "rounds": 3},
}


@pytest.mark.parametrize("changes", REPLAYED.values(), ids=REPLAYED.keys())
def test_the_recorded_events_of_a_live_run_replayed_give_its_digest(
    changes: dict[str, Any], federation: LocalFederation, tmp_path: Path
) -> None:
    """Law 1, with the coordinator killed in the middle of the run."""
    ready = prepared(tmp_path, **changes)
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    until("a round is done", lambda: federation.show(run).round >= 1)
    assert federation.coordinator is not None
    stop(federation.coordinator, signal.SIGKILL)
    federation.start_coordinator()
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    with federation.connection() as connection:
        listed = runs.rounds(connection, run).rounds
        heard = recording(connection, run, view.round)
    replayed = replay(ready, heard, EAGER)
    assert replayed.model_digest == view.model_digest
    assert [record.model for record in replayed.rounds] == [record.model for record in listed]
    for live, again in zip(listed, replayed.rounds, strict=True):
        assert live.metrics == pytest.approx(again.metrics, rel=1e-12)
    with pytest.raises(DataError) as refusal:
        replay(ready, heard[:-1], EAGER)
    assert refusal.value.code == "replay_differs"
    if changes is REPLAYED["buffered"]:
        command = ["run", "replay", run, str(tmp_path), "--coordinator", federation.url, "--token", federation.token]
        shown = subprocess.run(
            [sys.executable, "-m", "foedus", *command],
            env={**os.environ, "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
        )
        assert shown.returncode == 0, shown.stderr
        assert f"5 rounds replayed; every model is the same: {view.model_digest}" in shown.stdout
