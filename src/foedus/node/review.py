"""What an owner is shown of a plan before deciding: what it imports, what it touches, and what has changed in it.

It helps to read; it is no judge. Python can hide a call from any such list, which is why plans are read as a whole, and
what is not trusted is not approved.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from foedus.domain.plan import BESIDE, COMMAND_ENTRY

USUAL = frozenset({"torch", "math", "collections", "dataclasses", "functools", "itertools", "typing", "__future__"})
"""Modules that compute, and reach nothing outside."""

REACHING = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text as code"),
    **dict.fromkeys(("open", "input"), "reads or writes files"),
    **dict.fromkeys(("getattr", "setattr", "globals", "vars", "locals"), "reaches names that are not written out"),
}
"""Built-in functions that a plan seldom needs, and what they do."""

HIDING = frozenset({"__subclasses__", "__globals__", "__builtins__", "__code__", "__reduce__", "__mro__", "__dict__"})
"""Attributes that lead from any object to the interpreter's inside."""


@dataclass(frozen=True)
class Notice:
    """One place in a plan that is worth a look."""

    file: str
    line: int
    what: str


@dataclass(frozen=True)
class Need:
    """A package that the plan's lock names, the version that it wants, and the one that is installed here, if any."""

    name: str
    wanted: str
    here: str


@dataclass(frozen=True)
class Review:
    """``imports``: top-level modules, the unusual ones apart. ``notices`` in the order of files and lines.

    ``needs``: what the plan's ``lock`` wants and this machine does not have in that version.
    """

    imports: tuple[str, ...]
    unusual: tuple[str, ...]
    notices: tuple[Notice, ...]
    needs: tuple[Need, ...] = ()


def review(files: Mapping[str, str]) -> Review:
    r"""Look through a plan's files, ``name → text``.

    >>> review({"plan.py": "import torch, os\nopen('x')\n"}).unusual
    ('os',)
    """
    own = {name.removesuffix(".py").partition("/")[0] for name in files}
    imports, notices = set[str](), list[Notice]()
    for name, text in sorted(files.items()):
        if name in BESIDE:
            continue
        if name == COMMAND_ENTRY:
            notices.append(Notice(name, 1, "says which command is started here"))
        elif not name.endswith(".py"):
            notices.append(Notice(name, 1, "is no Python: read it where the plan does"))
        if not name.endswith(".py"):
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            notices.append(Notice(name, 1, "cannot be parsed as Python"))
            continue
        imports |= {module for module in _imports(tree) if module not in own}
        notices += [Notice(name, line, what) for line, what in sorted(_noticed(tree))]
    needs = tuple(_needs(files.get("lock", "")))
    return Review(tuple(sorted(imports)), tuple(sorted(imports - USUAL)), tuple(notices), needs)


def shown(content: bytes) -> str:
    r"""A file of a plan as its owner reads it; of a program, or other bytes, how many there are and their SHA-256.

    >>> shown(b"a = 1\n"), shown(b"\x7fELF\0")[:28]
    ('a = 1\n', 'no text: 5 bytes, of SHA-256')
    """
    if b"\0" in content:
        digest = hashlib.sha256(content).hexdigest()
        return f"no text: {len(content)} bytes, of SHA-256 {digest}; have its source, and build it yourself\n"
    return content.decode("utf-8", "backslashreplace")


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    r"""A unified diff of two plans' files, line by line; empty where they are the same.

    >>> changes({"plan.py": "a = 1\n"}, {"plan.py": "a = 2\n"})[2:]
    ['@@ -1 +1 @@', '-a = 1', '+a = 2']
    """
    lines = list[str]()
    for name in sorted({*before, *after}):
        old, new = before.get(name, "").splitlines(), after.get(name, "").splitlines()
        lines += difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", lineterm="")
    return lines


def _needs(lock: str) -> Iterator[Need]:
    """What differs of the lines ``name==version`` of a lock."""
    for line in lock.splitlines():
        name, pinned, wanted = (part.strip() for part in line.partition("#")[0].partition("=="))
        if pinned and (here := _installed(name)) != wanted:
            yield Need(name, wanted, here)


def _installed(name: str) -> str:
    try:
        return version(name)
    except (PackageNotFoundError, ValueError):
        return ""


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def _noticed(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in REACHING:
            yield node.lineno, f"{node.id}: {REACHING[node.id]}"
        elif isinstance(node, ast.Attribute) and node.attr in HIDING:
            yield node.lineno, f"{node.attr}: reaches into the interpreter"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.hub", "torch.ops"):
            yield node.lineno, f"{ast.unparse(node)}: loads what was not reviewed"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and len(node.value) > 2000:
            yield node.lineno, f"a constant of {len(node.value)} letters: code or data may hide in it"
