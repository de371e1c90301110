"""A Ray cluster for one simulation: the one that ``RAY_ADDRESS`` names, or a small one, started and stopped here.

Ray is Moritz et al. 2018, "Ray: A Distributed Framework for Emerging AI Applications",
https://arxiv.org/abs/1712.05889. Only its core is used: actors and the object store.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from foedus.domain.errors import ConfigError, FoedusError, RunFailedError, UnreachableError

ADDRESS, LOCAL = "RAY_ADDRESS", "local"
CONNECT_SECONDS = 5.0
FOLDER_LENGTH = 30
"""The longest temporary folder under which Ray's socket names still fit a socket's path, in characters."""

STORE_BYTES = 256 << 20
"""A started Ray's object store, unless the broadcast needs more: it holds broadcasts and the blocks on their way."""


@dataclass
class Cluster:
    """A connection to Ray. ``ours``: this process connected, and disconnects; ``folder``: where a started Ray lives."""

    cpus: int
    ours: bool
    folder: Path | None = None

    def close(self) -> None:
        """Disconnect, and stop the Ray that was started here; nothing of it is left when this returns."""
        if self.ours:
            ray.shutdown()
        self.ours = False
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def connect(cpus: int, broadcast_bytes: int) -> Cluster:
    """The Ray that this process is connected to already, that of ``RAY_ADDRESS``, or a new one with ``cpus`` CPUs.

    Raises:
        UnreachableError: ``ray_unreachable``.
        ConfigError: ``ray_address_refused``.
        RunFailedError: ``ray_not_started``.
    """
    if ray.is_initialized():
        return Cluster(_cpus(), ours=False)
    address = os.environ.get(ADDRESS, LOCAL)
    if address == LOCAL:
        return _start(cpus, max(STORE_BYTES, 4 * broadcast_bytes))
    if address != "auto":
        _check_address(address)
    _init(_unreachable(address, ""), address=address)
    return Cluster(_cpus(), ours=True)


def _start(cpus: int, store_bytes: int) -> Cluster:
    temporary = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="foedus-ray-", dir=temporary if len(temporary) <= FOLDER_LENGTH else "/tmp"))
    cluster = Cluster(cpus, ours=True, folder=folder)
    refusal = RunFailedError(
        "ray_not_started",
        "Ray could not be started on this machine.",
        "",
        f"Use `--executor workers`, which needs no Ray, or set {ADDRESS} to a cluster that runs.",
    )
    started = {"num_cpus": cpus, "num_gpus": 0, "object_store_memory": store_bytes, "_temp_dir": str(folder)}
    try:
        _init(refusal, address=LOCAL, include_dashboard=False, **started)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _init(refusal: FoedusError, **options: Any) -> None:
    """``ray.init``, quietly, its own errors as ``refusal``; Ctrl-C waits for its end, so that nothing is half there."""
    try:
        with _calm():
            ray.init(log_to_driver=False, configure_logging=False, logging_level=logging.ERROR, **options)
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
        raise type(refusal)(refusal.code, refusal.what, why, refusal.fix) from error


@contextmanager
def _calm() -> Iterator[None]:
    """Hold Ctrl-C back, and keep this process's handlers of signals, which Ray replaces with its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if pressed:
        raise KeyboardInterrupt


def _cpus() -> int:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0))


def _check_address(address: str) -> None:
    """Refuse at once what Ray would try for minutes."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = (parts.hostname, parts.port) if "/" not in address else (None, None)
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ConfigError(
            "ray_address_refused",
            f"{ADDRESS} is {address!r:.200}, which is not HOST:PORT.",
            "The simulation runs on a machine of the cluster; Ray's client protocol (ray://) is not used.",
            f"Set {ADDRESS} to `auto`, or to what `ray start --head` printed, such as 192.0.2.7:6379.",
        )
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> UnreachableError:
    return UnreachableError(
        "ray_unreachable",
        f"No Ray cluster could be used at {address}, which {ADDRESS} names.",
        why,
        f"Start it (`ray start --head`), correct {ADDRESS}, or unset it to have a Ray started on this machine.",
    )
