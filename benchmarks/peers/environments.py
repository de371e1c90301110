"""The peers' environments: ``python -m benchmarks.peers [NAME …]`` makes each under ``.bench/``.

Every environment gets the very build of torch that this one has, so that no peer is slower or faster by its torch.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".bench"


@dataclass(frozen=True)
class Environment:
    """What pip is to install, and the package whose version is told."""

    name: str
    package: str
    requirements: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def ready(self) -> bool:
        """Whether it is installed as asked for here."""
        return self._mark.is_file() and self._mark.read_text() == self._wanted

    def install(self) -> str:
        """Make it; returns why it could not be made, and nothing where it was."""
        if self.ready:
            return ""
        venv.create(self.folder, clear=True, with_pip=True)
        constraints = self.folder / "constraints.txt"
        constraints.write_text(f"torch=={_torch()}\n")
        command = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--constraint", str(constraints), *self.requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["pip failed without a word"])[-1]
            self._failure.write_text(why)
            return why
        self._mark.write_text(self._wanted)
        return ""

    def version(self) -> str:
        """The version of its package that is installed, or that it is not, and why where that is known."""
        if not self.ready:
            return f"not installed: {self._failure.read_text()}" if self._failure.is_file() else "not installed"
        places = [str(place) for place in self.folder.glob("lib/python*/site-packages")]
        found = importlib.metadata.distributions(name=self.package, path=places)
        return next((each.version for each in found), "?")

    @property
    def _mark(self) -> Path:
        return self.folder / ".ready"

    @property
    def _failure(self) -> Path:
        return self.folder / ".failure"

    @property
    def _wanted(self) -> str:
        return "\n".join((f"torch=={_torch()}", *self.requirements))


ENVIRONMENTS: Mapping[str, Environment] = {
    environment.name: environment
    for environment in (
        Environment("pfl", "pfl", ("pfl[pytorch]==0.6.0",)),
        Environment("flower", "flwr", ("flwr[simulation]==1.41.0", "torch")),
        Environment("fedlab", "fedlab", ("fedlab==1.3.0",)),
        Environment("nvflare", "nvflare", ("nvflare==2.9.0", "torch")),
        Environment("fedjax", "fedjax", ("fedjax==0.0.17",)),
    )
}


def install(names: Sequence[str]) -> int:
    """Make the named environments, or all; returns how many could not be made."""
    failed = 0
    for name in names or list(ENVIRONMENTS):
        environment = ENVIRONMENTS[name]
        print(f"{name}: {' '.join(environment.requirements)}", flush=True)
        why = environment.install()
        failed += bool(why)
        print(f"{name}: {'not installed: ' + why if why else environment.version() + ' in ' + _shown(environment)}")
    return failed


def _shown(environment: Environment) -> str:
    return str(environment.folder.relative_to(ROOT))


def _torch() -> str:
    return importlib.metadata.version("torch")
