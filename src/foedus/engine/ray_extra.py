"""The door to executor ``ray``, which alone needs the extra ``foedus[ray]``."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys

from foedus.domain.errors import ConfigError
from foedus.engine.executors import Executor
from foedus.engine.kernels import ClientSource, Kernel
from foedus.engine.prepare import Prepared


def ray_executor(
    kernel: Kernel, prepared: Prepared, source: ClientSource, workers: int | None, cohort: int
) -> tuple[Executor, int]:
    """The executor, one of its actors begun, and the number of its actors: ``workers``, or one per CPU of the cluster.

    Raises:
        ConfigError: ``extra_missing``.
        FoedusError: as :func:`foedus.engine.ray_executor.begin`.
    """
    require_ray()
    from foedus.engine.ray_executor import begin

    return begin(kernel, prepared, source, workers, cohort)


def require_ray() -> None:
    """Refuse where Ray is not installed, and say to Ray, before it is imported, what it is to do here.

    Raises:
        ConfigError: ``extra_missing``.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "extra_missing",
            "The executor `ray` needs Ray, which is not installed.",
            "Ray is an extra, because only runs that outgrow one machine need it.",
            "Install it: pip install 'foedus[ray]'.",
        )
    if "ray" not in sys.modules:
        for name, value in _environment().items():
            os.environ.setdefault(name, value)


def _environment() -> dict[str, str]:
    """Give up soon where something else answers; nothing on stdout; a Ray of our own is for this user, on loopback."""
    quiet = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".*", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    common = {**quiet, "RAY_NUM_REDIS_GET_RETRIES": "1"}
    if "RAY_ADDRESS" in os.environ:
        return common
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {**common, **token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
