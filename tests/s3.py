"""A real S3 server for tests, moto's: one per test process, on loopback, with fresh buckets for who asks.

It lives in an environment of its own, `.venv-s3`, which the first test that needs it makes (`scripts/s3-server`). Where
that fails, for want of a network, these tests skip and say how to install it.
"""

from __future__ import annotations

import fcntl
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv-s3"
MISSING = "The S3 server is not here; to install it: scripts/s3-server"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What the coordinator's environment must hold; the fixtures set it in this process, and so in those it starts."""


@dataclass
class S3:
    """A running server; it forgets everything when it ends."""

    port: int
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def endpoint(self) -> str:
        """Where the server is."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, bucket: str, port: int | None = None, **options: str) -> str:
        """How a coordinator finds a bucket (its setting ``blobs``); ``port`` is that of a proxy."""
        extra = "".join(f"&{name}={value}" for name, value in options.items())
        return f"s3://{bucket}/blobs?endpoint=http://127.0.0.1:{port or self.port}&region=us-east-1&style=path{extra}"

    def fresh(self, **options: str) -> str:
        """The URL of a new, empty bucket."""
        bucket = f"test-{next(self.numbers)}"
        httpx.put(f"{self.endpoint}/{bucket}", trust_env=False, timeout=30).raise_for_status()
        return self.url(bucket, **options)


def installed() -> Path | None:
    """The server's program; made now where it can be."""
    program = ENVIRONMENT / "bin" / "moto_server"
    with (Path(tempfile.gettempdir()) / "foedus-s3.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            with suppress(subprocess.SubprocessError):
                subprocess.run([str(ROOT / "scripts" / "s3-server")], check=True, capture_output=True, timeout=280)
    return program if program.is_file() else None


@contextmanager
def serving(port: int | None = None) -> Iterator[S3]:
    """A server of one's own, gone when the block ends."""
    program = installed()
    if program is None:
        pytest.skip(MISSING)
    server = S3(port or free_port())
    command = [str(program), "-H", "127.0.0.1", "-p", str(server.port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not _answers(server):
            assert process.poll() is None and time.monotonic() < end, "the S3 server does not start"
            time.sleep(0.05)
        yield server
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(20)


def _answers(server: S3) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{server.endpoint}/moto-api/", trust_env=False, timeout=5).status_code == 200
    return False


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A running server, shared by the tests of this process; who stops it starts one of its own with `serving`."""
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def s3_url(s3: S3) -> str:
    """The URL of a fresh bucket."""
    return s3.fresh()
