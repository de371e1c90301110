"""A certified OpenID Connect provider (npm's `oidc-provider`) on loopback, for tests, and a browser for it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.federation import free_port, until

HERE = Path(__file__).parent / "oidc"


@dataclass(frozen=True)
class LoginProvider:
    """The provider's address; it believes whoever logs in."""

    issuer: str


@contextmanager
def login_provider(redirect: str, log: Path) -> Iterator[LoginProvider]:
    """A provider that sends browsers back to ``redirect``; the test is skipped where Node.js cannot be had."""
    folder, port = _installed(), free_port()
    with log.open("ab") as output:
        command = ["node", str(folder / "provider.js"), str(port), redirect]
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    try:
        until("the login provider listens", lambda: process.poll() is not None or "listening" in log.read_text())
        assert process.poll() is None, log.read_text()
        yield LoginProvider(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(60)


def _installed() -> Path:
    """The provider's folder beside the environment; installed once for each lock file, with npm."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("the login provider of this test needs Node.js and npm: apt-get install nodejs npm")
    files = ("package.json", "package-lock.json", "provider.js")
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in files)).hexdigest()[:16]
    folder = Path(sys.prefix) / "login-provider" / digest
    if not (folder / "ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            shutil.copy(HERE / name, folder / name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"npm cannot install the login provider of this test: {made.stderr.strip()[-200:]}")
        (folder / "ready").touch()
    return folder


class Browser:
    """Somebody at a browser: follows redirects, fills in the provider's forms, keeps cookies."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client = httpx.Client(trust_env=False, timeout=120.0)

    def open(self, url: str, stop: str) -> httpx.Response:
        """Open ``url`` and do what is asked until an address that begins with ``stop`` is to be opened."""
        reply = self.client.get(url)
        for _ in range(20):
            if reply.is_redirect:
                there = urljoin(str(reply.url), reply.headers["location"])
                if there.startswith(stop):
                    return reply
                reply = self.client.get(there)
                continue
            form = re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', reply.text, re.DOTALL)
            if form is None:
                return reply
            fields = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', form[2]))
            fields |= {"login": self.name, "password": "any"} if 'name="login"' in form[2] else {}
            reply = self.client.post(urljoin(str(reply.url), form[1].replace("&amp;", "&")), data=fields)
        raise AssertionError(f"the provider goes on and on: {reply.url}")

    def close(self) -> None:
        """Close the window."""
        with suppress(httpx.HTTPError):
            self.client.close()
