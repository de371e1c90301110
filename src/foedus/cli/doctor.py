"""``foedus doctor``: is this machine fit, and if not, what to do. A table Check / Status / Fix."""

from __future__ import annotations

import email.utils
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import httpx
import platformdirs
import torch

from foedus.cli.output import emit, json_option, table
from foedus.data.catalogue import load
from foedus.data.dataset import count
from foedus.data.sources.source import Pool
from foedus.domain.errors import FoedusError
from foedus.domain.run import DataTable
from foedus.domain.text import size
from foedus.node.settings import node_home
from foedus.wire.http import check_url

PYTHON = (3, 11)
ROOM = 1 << 30
"""Free bytes that a disk should have."""

SKEW = 30.0
"""Seconds that two clocks may differ before signatures are refused."""


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it is well, what was seen, and what to do where it is not."""

    check: str
    ok: bool
    status: str
    fix: str = ""


@click.command("doctor")
@click.option("--coordinator", metavar="URL", envvar="FOEDUS_COORDINATOR", help="Check this coordinator as well.")
@json_option
def command(coordinator: str | None) -> None:
    """Check this machine, and say how to mend what is wrong; exit code 1 where something is."""
    checks = list(_checks(coordinator))
    rows = [
        [each.check, f"{'ok' if each.ok else 'WRONG'}: {each.status}", "" if each.ok else each.fix] for each in checks
    ]
    healthy = all(each.ok for each in checks)
    data = {"healthy": healthy, "checks": [asdict(each) for each in checks]}
    emit(data, table(["Check", "Status", "Fix"], rows), exit_code=0 if healthy else 1)


def _checks(coordinator: str | None) -> Iterator[Check]:
    version = sys.version_info
    yield Check("Python", version >= PYTHON, ".".join(map(str, version[:3])), "Install Python 3.11 or newer.")
    yield Check("torch", True, f"{torch.__version__}, {'with' if torch.cuda.is_available() else 'without'} a GPU")
    yield Check("cores", True, f"{os.cpu_count()}; torch would use {torch.get_num_threads()} threads")
    yield _fork()
    for name, folder in (("current folder", Path()), ("node's home", node_home()), ("user's data", _user_data())):
        yield from _folder(name, folder)
    yield _attempt("bundled data", _bundled, "Reinstall foedus.")
    if coordinator:
        yield from _coordinator(coordinator)


def _fork() -> Check:
    has = callable(vars(os).get("fork"))
    return Check(
        "processes", has, "fork is available" if has else "no fork", "Use Linux or macOS, or `--executor inline`."
    )


def _user_data() -> Path:
    return platformdirs.user_data_path("foedus")


def _folder(name: str, folder: Path) -> Iterator[Check]:
    """Whether a folder, or what would hold it, can be written and has room."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())

    def write() -> str:
        with tempfile.TemporaryFile(dir=place):
            return f"{place} can be written"

    yield _attempt(name, write, f"Make {place} writable, or choose another folder.")
    free = shutil.disk_usage(place).free
    yield Check(f"{name}: room", free >= ROOM, f"{size(free)} free", f"Make room on the disk of {place}.")


def _coordinator(url: str) -> Iterator[Check]:
    fix = "Start it with `foedus coordinator start`, or correct FOEDUS_COORDINATOR."
    try:
        asked = time.time()
        response = httpx.get(f"{check_url(url)}/readyz", timeout=5.0)
        yield Check("coordinator", response.status_code == 200, f"{url} answers {response.status_code}", fix)
    except (httpx.HTTPError, FoedusError) as error:
        yield Check("coordinator", False, f"{url}: {error}", fix)
        return
    told = email.utils.parsedate_tz(response.headers.get("date", ""))
    if told is not None:
        skew = abs((asked + time.time()) / 2 - email.utils.mktime_tz(told))
        yield Check("clock", skew < SKEW, f"{skew:.0f} s from the coordinator's", "Set this machine's clock, with NTP.")


def _bundled() -> str:
    found = load(DataTable(name="digits"))
    return f"{count(found.columns)} digits" if isinstance(found, Pool) else "clients"


def _attempt(name: str, attempt: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, True, attempt())
    except (OSError, FoedusError) as error:
        return Check(name, False, str(error), fix)
