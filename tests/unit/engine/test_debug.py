"""Clients that fail: named with what happened, the round goes on; ``debug`` says where and on what."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest

from foedus.domain.errors import FoedusError, PlanError, QuorumError
from foedus.engine import debug
from foedus.engine.choice import Engine
from foedus.engine.simulate import Result, Tools, simulate
from tests.plans import DIGITS, prepared

ENGINES = [Engine("eager", "inline"), Engine("eager", "workers", 2), Engine("graph", "inline")]
IDS = ["eager", "workers", "graph"]
LOSS = "    return nn.functional.cross_entropy(output, target)"
ZEROS = "(target == 0).float().mean() > 0.7"
"""True of batches of the third client alone."""


def failing(line: str, when: str = ZEROS) -> str:
    return DIGITS.replace(LOSS, f"    if {when}:\n        {line}\n{LOSS}")


def run(folder: Path, plan: str, engine: Engine = ENGINES[0], **changes: Any) -> tuple[Result, list[str]]:
    said = list[str]()
    ready = prepared(folder, plan, test={"ratio": 0.0}, **changes)
    return simulate(ready, engine, tools=Tools(said.append)), said


def failures(result: Result, at: int = 0) -> dict[str, str]:
    return {receipt.client: receipt.failure for receipt in result.rounds[at].phases[0].receipts if receipt.failure}


@pytest.mark.parametrize("engine", ENGINES, ids=IDS)
def test_a_plan_that_raises_is_shown_with_its_client_stage_arguments_and_line(tmp_path: Path, engine: Engine) -> None:
    result, said = run(tmp_path, failing("raise RuntimeError('too many zeros')"), engine, rounds=1)
    ((client, failure),) = failures(result).items()
    assert client == "c0002"
    assert failure.startswith("plan_failed: ")
    (told,) = said
    for words in (
        "c0002, round 1, phase train",
        '"lr": 0.1',
        "stage      step ",
        "batch      inputs [",
        "float32 0 … 1; targets [",
        "RuntimeError: too many zeros",
        "plan.py, line 15, in loss: raise RuntimeError('too many zeros')",
    ):
        assert words in told


@pytest.mark.parametrize("engine", ENGINES, ids=IDS)
def test_a_client_that_diverges_is_shown_with_the_step_in_which_it_did(tmp_path: Path, engine: Engine) -> None:
    result, said = run(tmp_path, failing("return output.sum() * float('nan')"), engine, rounds=1)
    ((client, failure),) = failures(result).items()
    assert client == "c0002"
    assert failure.startswith("update_not_finite: ")
    assert result.model_digest
    assert "diverged   loss was nan first in step" in said[0]
    assert "stage      check" in said[0]
    assert "not finite" in said[0]


@pytest.mark.parametrize("engine", ENGINES, ids=IDS)
@pytest.mark.parametrize(
    "line", ["raise MemoryError", "torch.empty(2**60)", "raise torch.cuda.OutOfMemoryError('CUDA out of memory')"]
)
def test_a_client_that_runs_out_of_memory_is_named(tmp_path: Path, engine: Engine, line: str) -> None:
    result, said = run(tmp_path, failing(line), engine, rounds=1)
    ((client, failure),) = failures(result).items()
    assert (client, failure.partition(":")[0]) == ("c0002", "out_of_memory")
    assert len(said) == 1


def _in_little_memory(folder: Path, plan: str, pipe: Any) -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a path that no Path method reads better
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20),) * 2)
    result, _ = run(folder, plan, rounds=1)
    pipe.send(failures(result))


def test_memory_that_is_really_at_its_end_is_the_client_s_failure(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe(duplex=False)
    plan = failing("torch.ones(1 << 30)")
    process = multiprocessing.get_context("fork").Process(target=_in_little_memory, args=(tmp_path, plan, there))
    process.start()
    process.join(240)
    assert process.exitcode == 0
    ((client, failure),) = here.recv().items()
    assert (client, failure.partition(":")[0]) == ("c0002", "out_of_memory")
    here.close()
    there.close()


@pytest.mark.parametrize("engine", ENGINES, ids=IDS)
def test_a_client_whose_data_cannot_be_prepared_is_named_and_the_others_go_on(tmp_path: Path, engine: Engine) -> None:
    plan = DIGITS.replace(
        '    return columns["image"]',
        "    if (columns['label'] == 0).float().mean() > 0.5:\n        raise ValueError('zeros')\n"
        '    return columns["image"]',
    )
    result, said = run(tmp_path, plan, engine)
    assert [*failures(result)] == [*failures(result, 1)] == ["c0002"]
    assert failures(result)["c0002"].startswith("prepare_failed: ")
    assert "stage      prepare" in said[0]
    assert "columns    image [" in said[0]
    assert "in prepare: raise ValueError('zeros')" in said[0]


def test_data_that_cannot_be_prepared_for_anybody_are_refused_before_round_1(tmp_path: Path) -> None:
    plan = DIGITS.replace('    return columns["image"]', '    raise ValueError("all")\n    return columns["image"]')
    with pytest.raises(PlanError) as refused:
        run(tmp_path, plan)
    assert refused.value.code == "prepare_failed"


def test_a_plan_that_kills_its_process_is_looked_into_without_harm(tmp_path: Path) -> None:
    plan = failing("import os; os.kill(os.getpid(), 9)")
    result, said = run(tmp_path, plan, ENGINES[1], rounds=1)
    assert failures(result)["c0002"].startswith("worker_died: ")
    assert "died too (exit -9)" in said[0]


def test_what_is_wrong_for_everybody_is_shown_for_the_first(tmp_path: Path) -> None:
    said = list[str]()
    ready = prepared(tmp_path, DIGITS.replace("cross_entropy(output, target)", "cross_entropy(output, target)[None]"))
    with pytest.raises(FoedusError) as refused:
        simulate(ready, ENGINES[0], tools=Tools(said.append))
    assert refused.value.code == "plan_loss_shape"
    assert "c0000, round 1, phase train" in said[0]
    assert "stage      step 1" in said[0]


def test_each_client_that_fails_is_shown_once_and_too_many_are_not_all_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    ready = prepared(tmp_path, failing("raise RuntimeError", "True"))
    with pytest.raises(QuorumError):
        simulate(ready, ENGINES[0], tools=Tools(said.append))
    clients = {line.split()[1].strip(",") for text in said for line in text.splitlines() if "client  " in line}
    assert len(said) == len(clients) > 3
    monkeypatch.setattr(debug, "SHOWN", 3)
    said.clear()
    with pytest.raises(QuorumError):
        simulate(ready, ENGINES[0], tools=Tools(said.append))
    assert len(said) == 3


def test_without_it_nothing_is_said_and_the_bits_are_the_same(tmp_path: Path) -> None:
    plan = failing("raise RuntimeError('too many zeros')")
    with_it, said = run(tmp_path, plan)
    without = simulate(prepared(tmp_path, plan, test={"ratio": 0.0}), ENGINES[0])
    assert said
    assert with_it.model_digest == without.model_digest
