"""What is chosen, and why: by name, by what the plan allows, and by what pays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from foedus.data.dataset import ClientData
from foedus.domain.errors import ConfigError, IntegrityError
from foedus.engine import choice
from foedus.engine.choice import Choice, Engine, choose
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import client_data, simulate
from tests.plans import DIGITS, prepared


def chosen(ready: Prepared, engine: Engine) -> Choice:
    data: dict[str, ClientData] = client_data(ready)
    executor, made = choose(engine, ready, data.__getitem__, tuple(data))
    executor.close()
    assert executor.name == made.executor
    return made


@pytest.mark.parametrize(
    ("engine", "code", "nearest"),
    [
        (Engine(kernel="grahp"), "kernel_unknown", "`graph`"),
        (Engine(executor="worker"), "executor_unknown", "`workers`"),
        (Engine(executor="workers", workers=0), "workers_refused", ""),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(
    tmp_path: Path, engine: Engine, code: str, nearest: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        chosen(prepared(tmp_path), engine)
    assert refused.value.code == code
    assert nearest in str(refused.value)


@pytest.mark.parametrize("kernel", ["eager", "graph"])
@pytest.mark.parametrize("executor", ["inline", "workers"])
def test_what_is_asked_for_is_what_runs(tmp_path: Path, kernel: str, executor: str) -> None:
    made = chosen(prepared(tmp_path), Engine(kernel, executor, 2))
    assert (made.kernel, made.executor, made.workers) == (kernel, executor, 2 if executor == "workers" else 1)


def test_a_short_run_stays_as_it_is_and_says_why(tmp_path: Path) -> None:
    made = chosen(prepared(tmp_path), Engine())
    assert (made.kernel, made.executor, made.workers, made.stack) == ("eager", "inline", 1, 1)
    assert "do not pay for tracing" in made.reason
    assert "do not pay for starting processes" in made.reason


def test_a_long_run_is_traced_and_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cores", lambda: 2)
    partition = {"name": "dirichlet", "alpha": 1.0, "clients": 40}
    data = {"name": "digits", "partition": partition}
    made = chosen(prepared(tmp_path, rounds=1000, cohort={"size": 40}, data=data), Engine())
    assert (made.kernel, made.executor, made.workers, made.stack) == ("graph", "workers", 2, 20)


def test_one_core_and_platforms_without_fork_work_inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepared(tmp_path, rounds=1000)
    monkeypatch.setattr(choice, "cores", lambda: 1)
    assert chosen(ready, Engine("eager", "auto")).executor == "inline"
    monkeypatch.setattr(choice, "cores", lambda: 2)
    monkeypatch.setattr(choice, "available", lambda: False)
    made = chosen(ready, Engine("eager", "auto"))
    assert made.executor == "inline"
    assert "fork" in made.reason


def test_beside_an_accelerator_nothing_is_forked_that_has_differentiated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choice, "cores", lambda: 2)
    ready = prepared(tmp_path, rounds=1000)
    monkeypatch.setattr(torch.autograd, "grad", None)
    assert chosen(ready, Engine("eager", "auto")).executor == "workers"
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = chosen(ready, Engine("graph", "workers"))
    assert (made.kernel, made.executor) == ("graph", "inline")
    assert "accelerator" in made.reason


def test_a_plan_that_is_no_graph_runs_eagerly_and_says_so(tmp_path: Path) -> None:
    branching = DIGITS.replace(
        "    return nn.functional", "    if output.sum() > 0: output = 2 * output\n    return nn.functional"
    )
    made = chosen(prepared(tmp_path, branching), Engine("graph", "inline"))
    assert made.kernel == "eager"
    assert "cannot run as a graph" in made.reason


@pytest.mark.parametrize(
    ("engine", "code"),
    [(Engine(device="cudda"), "device_unknown"), (Engine("graph", "inline", device="cuda"), "device_unavailable")],
)
def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, engine: Engine, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as refused:
        chosen(prepared(tmp_path), engine)
    assert refused.value.code == code


def test_one_process_feeds_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError) as refused:
        chosen(prepared(tmp_path), Engine("graph", "workers", device="cuda"))
    assert refused.value.code == "device_unavailable"
    assert "--executor inline" in refused.value.fix


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here")
@pytest.mark.parametrize("kernel", ["eager", "graph"])
def test_a_device_learns_what_the_processor_learns(tmp_path: Path, kernel: str) -> None:
    ready = prepared(tmp_path, rounds=3)
    there, here = (simulate(ready, Engine(kernel, "inline", device=device)) for device in ("cuda", "cpu"))
    assert all(tensor.device.type == "cpu" for tensor in there.model.values())
    for name, tensor in there.model.items():
        torch.testing.assert_close(tensor, here.model[name], rtol=1e-3, atol=1e-4)


def test_a_run_that_goes_on_is_computed_as_it_was_begun(tmp_path: Path) -> None:
    ready = prepared(tmp_path, rounds=1000)
    made = chosen(ready, Engine("graph", "inline"))
    assert made.recipe["stack"] == made.stack
    again = chosen(ready, Engine("graph", "inline", recipe=json.loads(json.dumps(made.recipe))))
    assert again.recipe == made.recipe
    assert "as the run was begun" in again.reason
    with pytest.raises(IntegrityError) as refused:
        chosen(ready, Engine("graph", "inline", recipe={"stack": "many"}))
    assert refused.value.code == "choice_malformed"


@pytest.mark.parametrize(("exact", "other"), [(True, 2**21), (False, 0)])
def test_a_run_that_goes_on_takes_no_product_that_is_coarser_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool, other: int
) -> None:
    """Elsewhere oneDNN may have computed in float32, and here, on another processor, in bfloat16."""
    ready = prepared(tmp_path)
    made = chosen(ready, Engine("graph", "inline"))
    monkeypatch.setattr(choice, "exact", lambda: exact)
    again = chosen(ready, Engine("graph", "inline", recipe={**made.recipe, "other": 2**21}))
    assert again.recipe == {**made.recipe, "other": other}
    assert ("not float32's here" in again.reason) is not exact
