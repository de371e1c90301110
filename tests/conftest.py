"""What every test stands on: one thread per process, folders of its own, and where real data sets are."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.postgres import database_url as database_url
from tests.postgres import postgres as postgres
from tests.postgres import postgres_url as postgres_url
from tests.postgres import usual_server as usual_server
from tests.s3 import s3 as s3
from tests.s3 import s3_url as s3_url

ROOT = Path(__file__).parents[1]
GROUPED = ("parity", "faults")
"""Folders whose tests start many processes or share a federation: each stays on one test process."""

# Before anything imports torch or matplotlib, and inherited by the processes that tests start.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="Agg", NO_COLOR="1")

# A shell that starts this in the background has it ignore Ctrl-C, and so would the processes that tests start and stop.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines that share their cores make no promise about time. `make test` repeats the same examples; `make soak` tries
# many others.
CALM = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("default", CALM, max_examples=50, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("soak", CALM, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "default")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Search no test for doctests: their import errors are ignored, and pytest then finds neither test nor error."""
    found = yield
    return [each for each in found if type(each).__name__ != "DoctestModule"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each of the grouped folders, and each file of the whole system's tests, on one test process.

    A test's own ``xdist_group`` wins.
    """
    for item in items:
        folders = item.path.relative_to(ROOT).parts
        group = next((name for name in GROUPED if folders[:2] == ("tests", name)), None)
        if folders[:2] == ("tests", "system"):
            group = item.path.stem
        if group and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Send the user's folders elsewhere and forget the user's settings, so that no test reads or writes them."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FOEDUS_") and name != "FOEDUS_TEST_DATA"]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        for kind in ("CONFIG", "DATA", "STATE", "CACHE"):
            patch.setenv(f"XDG_{kind}_HOME", str(home / kind.lower()))
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Where data sets lie that are not bundled; the test is skipped where there are none."""
    folder = Path(os.environ.get("FOEDUS_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no data sets here; name their folder with FOEDUS_TEST_DATA=FOLDER")
    return folder
