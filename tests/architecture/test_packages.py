"""Packages are whole, typed and checked, and what they import is what the project declares and pins."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.sources import ROOT, SRC, read_modules

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def declared(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def of_extras() -> set[str]:
    """What users install who want more than the core; ``dev`` is for this repository alone."""
    extras = PROJECT["project"]["optional-dependencies"]
    return declared([text for name, texts in extras.items() if name != "dev" for text in texts])


def third_party_packages() -> dict[str, frozenset[str]]:
    """Each package that ``src`` imports and does not bring, and the distributions that it comes with."""
    providers = packages_distributions()
    found: dict[str, frozenset[str]] = {}
    for module in read_modules(SRC):
        for node in ast.walk(module.tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"foedus"}:
                found[top] = frozenset(canonicalize_name(name) for name in providers.get(top, [top]))
    return found


def test_no_package_is_empty() -> None:
    packages = [path.parent for path in SRC.rglob("__init__.py")]
    assert packages
    assert not [str(folder.relative_to(SRC)) for folder in packages if len(list(folder.glob("*.py"))) < 2]


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in (SRC / "foedus").rglob("*.py")}
    assert not [str(folder.relative_to(SRC)) for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_module_is_type_checked_strictly() -> None:
    settings = PROJECT["tool"]["mypy"]
    assert settings["strict"] is True
    assert settings["files"] == ["src"]
    assert not {"exclude", "ignore_errors", "follow_imports"} & settings.keys()
    overridden = [name for table in settings.get("overrides", []) for name in table["module"]]
    assert not [name for name in overridden if name.startswith(("foedus", "*"))]
    assert not [module.name for module in read_modules(SRC) if re.search(r"^# mypy:", module.text, re.MULTILINE)]
    assert (SRC / "foedus" / "py.typed").is_file()


def test_what_is_imported_is_declared() -> None:
    known = declared(PROJECT["project"]["dependencies"]) | of_extras()
    missing = [package for package, distributions in third_party_packages().items() if not distributions & known]
    assert not missing, "imported by src and neither among [project] dependencies nor in an extra"


def test_what_is_declared_is_imported() -> None:
    imported = frozenset[str]().union(*third_party_packages().values())
    unused = declared(PROJECT["project"]["dependencies"]) - imported
    assert not unused, "among [project] dependencies and imported nowhere in src"


def test_every_dependency_is_pinned() -> None:
    pinned = declared([line for line in CONSTRAINTS if "==" in line])
    wanted = declared([*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]])
    assert not wanted - pinned, "run 'make constraints'"


def test_constraints_fit_any_machine() -> None:
    pin = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*")
    assert not [line for line in CONSTRAINTS if not line.startswith("#") and not pin.fullmatch(line)]
