"""Which GPUs there are, and which of them a plan sees."""

from __future__ import annotations

from pathlib import Path

from foedus.node.gpus import gpus, shown
from foedus.node.policy import Resources


def test_the_gpus_are_those_that_the_kernel_shows(tmp_path: Path) -> None:
    for name in ("nvidia1", "nvidia0", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpus(tmp_path) == (0, 1, 10)


def test_a_plan_sees_no_gpu_unless_the_policy_shows_one() -> None:
    assert shown(Resources(gpu_num=1)) == {"CUDA_VISIBLE_DEVICES": ""}
    assert shown(Resources(gpu=True, gpu_num=1)) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert shown(Resources(gpu=True)) == {}
