"""The project's modules as syntax trees, and the questions that several rules ask of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, its text and its tree."""

    name: str
    text: str
    tree: ast.Module


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule. ``key`` names it in the allow-list and survives edits nearby."""

    key: str
    detail: str


def parse(name: str, text: str) -> Module:
    """A module from its text."""
    return Module(name, text, ast.parse(text))


def read_modules(folder: Path) -> tuple[Module, ...]:
    """Every Python file under ``folder``, named as it would be imported from there."""
    return tuple(parse(dotted(folder, path), path.read_text("utf-8")) for path in sorted(folder.rglob("*.py")))


def dotted(folder: Path, path: Path) -> str:
    """``src/foedus/domain/__init__.py`` is ``foedus.domain``."""
    return ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")


def definitions(module: Module) -> Iterator[tuple[str, Definition, Definition | None]]:
    """Each function and class with its full name and what it is defined in."""

    def walk(
        node: ast.AST, prefix: str, owner: Definition | None
    ) -> Iterator[tuple[str, Definition, Definition | None]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Definition):
                name = f"{prefix}.{child.name}"
                yield name, child, owner
                yield from walk(child, name, child)
            else:
                yield from walk(child, prefix, owner)

    yield from walk(module.tree, module.name, None)


def functions(module: Module) -> Iterator[tuple[str, Function, Definition | None]]:
    """Each function and method with its full name and what it is defined in."""
    for name, node, owner in definitions(module):
        if isinstance(node, Function):
            yield name, node, owner


def classes(module: Module) -> Iterator[tuple[str, ast.ClassDef]]:
    """Each class with its full name."""
    for name, node, _ in definitions(module):
        if isinstance(node, ast.ClassDef):
            yield name, node


def decorators(node: Definition) -> set[str]:
    """The last names of the decorators: ``@app.command()`` is ``command``."""
    return {spelled(d.func if isinstance(d, ast.Call) else d).rpartition(".")[2] for d in node.decorator_list}


def spelled(node: ast.expr) -> str:
    """A dotted name as it is written (``Fold[T]`` is ``Fold``), or nothing where the expression is something else."""
    if isinstance(node, ast.Subscript):
        return spelled(node.value)
    if isinstance(node, ast.Attribute):
        head = spelled(node.value)
        return f"{head}.{node.attr}" if head else ""
    return node.id if isinstance(node, ast.Name) else ""


def imported(module: Module) -> dict[str, str]:
    """What the names that a module imports stand for: ``from a.b import C as D`` gives ``D`` → ``a.b.C``."""
    names: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def resolved(node: ast.expr, names: dict[str, str]) -> str:
    """The full name that an expression stands for, given what its module imports."""
    head, dot, rest = spelled(node).partition(".")
    return names.get(head, head) + dot + rest
