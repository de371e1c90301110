"""The GPUs of a node's machine, and which of them a work process may see. Nothing is imported to find them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from foedus.node.policy import Resources

DEVICE = re.compile(r"nvidia([0-9]{1,4})")


def gpus(devices: Path = Path("/dev")) -> tuple[int, ...]:
    """The numbers of the NVIDIA GPUs that the kernel shows, in order."""
    found = (DEVICE.fullmatch(path.name) for path in devices.iterdir())
    return tuple(sorted(int(one[1]) for one in found if one))


def shown(took: Resources) -> Mapping[str, str]:
    """The variable that tells CUDA which GPUs there are; none where the policy lets all be seen.

    >>> shown(Resources()), shown(Resources(gpu=True, gpu_num=1)), shown(Resources(gpu=True))
    ({'CUDA_VISIBLE_DEVICES': ''}, {'CUDA_VISIBLE_DEVICES': '1'}, {})
    """
    if not took.gpu:
        return {"CUDA_VISIBLE_DEVICES": ""}
    return {} if took.gpu_num is None else {"CUDA_VISIBLE_DEVICES": str(took.gpu_num)}
