"""A real PostgreSQL for tests: one server per test process, on loopback, with fresh databases for who asks.

Tests that use it skip, and say how to install it, where there is no server to start.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

ON_POSTGRES = os.environ.get("FOEDUS_TEST_DATABASE") == "postgresql"
MISSING = "PostgreSQL's server is not here; on Debian: apt-get install postgresql"
SERVERS = Path("/usr/lib/postgresql")
"""Where Debian keeps the servers' programs, by version; they are not on PATH."""

OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "fsync": "off",  # tests kill processes, and never the machine
    "full_page_writes": "off",
    "shared_buffers": "32MB",
}


def programs() -> Path | None:
    """The folder of the newest server's programs."""
    found = sorted(SERVERS.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]), reverse=True)
    on_path = shutil.which("postgres")
    return found[0].parent if found else Path(on_path).parent if on_path else None


_usual: dict[str, Postgres] = {}


@dataclass
class Postgres:
    """A server in ``folder``, which it owns; it may be stopped and started again, and keeps its port."""

    folder: Path
    binaries: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    numbers: Iterator[int] = field(default_factory=count)

    def url(self, database: str, port: int | None = None) -> str:
        """How SQLAlchemy finds a database; ``port`` is that of a proxy."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{port or self.port}/{database}"

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self.numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What a statement answers, without headings."""
        command = ["psql", "-qAtX", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        command[0] = str(self.binaries / "psql")
        done = subprocess.run([*command, "-c", statement], check=True, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    def initialise(self) -> None:
        """Make the server's files."""
        command = [str(self.binaries / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-U", "postgres"]
        command += ["--no-sync", "--locale=C.UTF-8", "--encoding=UTF8"]
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd="/", **_as_owner())

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-k", str(self.folder)]
        command += [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                **_as_owner(),
            )
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        end = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:
            assert self.process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT breaks every connection in order, SIGQUIT as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)


def _as_owner() -> dict[str, Any]:
    """Who a server runs as: never root, which it refuses."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def serving(binaries: Path) -> Iterator[Postgres]:
    """A server of one's own, gone when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="foedus-pg-"))  # pytest's folders are closed to other users
    try:
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        server = Postgres(folder, binaries)
        server.initialise()
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def postgres_binaries() -> Path:
    """The server's programs; the test is skipped where there are none."""
    binaries = programs()
    if binaries is None:
        pytest.skip(MISSING)
    return binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server, shared by the tests of this process; who stops it starts one of its own with `serving`."""
    with serving(postgres_binaries()) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL of a fresh database on PostgreSQL."""
    return postgres.fresh()


@pytest.fixture(scope="session", autouse=ON_POSTGRES)
def usual_server(postgres: Postgres) -> Iterator[None]:
    """Where the environment says so, :func:`usual_database` is on this server."""
    _usual["server"] = postgres
    yield
    _usual.clear()


def usual_database(folder: Path) -> str:
    """The database of a coordinator in ``folder`` that a test opens without naming one; empty for the embedded one.

    FOEDUS_TEST_DATABASE=postgresql puts all of them on PostgreSQL, as a line of `make soak` does.
    """
    if "server" not in _usual:
        return ""
    name = f"usual_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    if not _usual["server"].sql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
        _usual["server"].sql(f"CREATE DATABASE {name}")
    return _usual["server"].url(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database, once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'coordinator.db'}"
    url = request.getfixturevalue("postgres_url")
    assert isinstance(url, str)
    return url
